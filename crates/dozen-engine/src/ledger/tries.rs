//! How often somebody may fail to show a good token: so often from one address, and so often in all.
//!
//! Nobody guesses 256 random bits; what is bounded here is the work and the lines that guessing makes. Addresses that have shown a good token
//! lately are not held up by what others fail with.
//!
//! **Invariant:** what is kept is bounded, however many addresses there are; a clock that jumps back locks nobody out.

use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// From one address so many at once, and then one in so long a time.
const OF_ONE: Rate = Rate { burst: 10, pause: SignedDuration::from_secs(10) };
/// From all that have shown nothing good lately.
const OF_ALL: Rate = Rate { burst: 200, pause: SignedDuration::from_millis(500) };
/// So many addresses are remembered.
const MOST: usize = 4_096;
/// So long an address is known for a good token.
const GOOD: SignedDuration = SignedDuration::from_hours(1);

struct Rate {
    burst: i32,
    pause: SignedDuration,
}

/// It is not tried now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many tries with tokens that are not known here; try again in {} s", .retry_after.as_secs().max(1))]
pub struct TooOften {
    /// When it will be.
    pub retry_after: SignedDuration,
}

/// What failed lately.
#[derive(Debug, Default)]
pub struct Tries {
    all: Debt,
    of: HashMap<IpAddr, Tried>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tried {
    debt: Debt,
    /// When it last showed a good token.
    good: Option<Timestamp>,
}

/// Until when what was done would have taken, had it been done at the steady rate.
#[derive(Debug, Clone, Copy, Default)]
struct Debt(Timestamp);

impl Debt {
    /// More than a whole burst is never owed: then the clock has jumped back, and nothing is known.
    fn at(self, rate: &Rate, now: Timestamp) -> SignedDuration {
        let debt = self.0.duration_since(now).max(SignedDuration::ZERO);
        if debt > rate.pause * rate.burst { SignedDuration::ZERO } else { debt }
    }

    fn check(self, rate: &Rate, now: Timestamp) -> Result<(), TooOften> {
        let retry_after = self.at(rate, now) - rate.pause * (rate.burst - 1);
        if retry_after > SignedDuration::ZERO { Err(TooOften { retry_after }) } else { Ok(()) }
    }

    fn add(&mut self, rate: &Rate, now: Timestamp) {
        let debt = (self.at(rate, now) + rate.pause).min(rate.pause * rate.burst);
        self.0 = now.saturating_add(debt).unwrap_or(Timestamp::MAX);
    }
}

impl Tries {
    /// Whether a token from this address is looked at now.
    ///
    /// # Errors
    /// This address, or all together, failed too often.
    pub fn check(&self, from: IpAddr, now: Timestamp) -> Result<(), TooOften> {
        let tried = self.of.get(&neighbourhood(from)).copied().unwrap_or_default();
        tried.debt.check(&OF_ONE, now)?;
        if tried.is_good(now) { Ok(()) } else { self.all.check(&OF_ALL, now) }
    }

    /// A token from this address was not known.
    pub fn failed(&mut self, from: IpAddr, now: Timestamp) {
        let tried = self.entry(from, now);
        tried.debt.add(&OF_ONE, now);
        if !tried.is_good(now) {
            self.all.add(&OF_ALL, now);
        }
    }

    /// A token from this address was good.
    pub fn succeeded(&mut self, from: IpAddr, now: Timestamp) {
        self.entry(from, now).good = Some(now);
    }

    fn entry(&mut self, from: IpAddr, now: Timestamp) -> &mut Tried {
        let from = neighbourhood(from);
        if self.of.len() >= MOST && !self.of.contains_key(&from) {
            self.make_room(now);
        }
        self.of.entry(from).or_default()
    }

    /// What says nothing any more goes; where that is not enough, whoever owes nothing but was good goes last.
    fn make_room(&mut self, now: Timestamp) {
        self.of.retain(|_, tried| tried.is_good(now) || tried.debt.at(&OF_ONE, now) > SignedDuration::ZERO);
        if self.of.len() < MOST {
            return;
        }
        let mut all: Vec<(bool, SignedDuration, IpAddr)> =
            self.of.iter().map(|(from, tried)| (tried.is_good(now), tried.debt.at(&OF_ONE, now), *from)).collect();
        all.sort_unstable();
        // A quarter at once, so that a flood of addresses does not pay for this with each one.
        for (_, _, from) in all.into_iter().take(MOST / 4) {
            self.of.remove(&from);
        }
    }
}

impl Tried {
    fn is_good(&self, now: Timestamp) -> bool {
        self.good.is_some_and(|at| now.duration_since(at).abs() < GOOD)
    }
}

/// Whoever has one IPv6 address has 2⁶⁴ of them.
fn neighbourhood(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("in range")
    }

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    #[test]
    fn an_address_that_fails_waits_and_others_do_not() {
        let mut tries = Tries::default();
        for _ in 0..10 {
            assert_eq!(tries.check(HERE, at(0)), Ok(()));
            tries.failed(HERE, at(0));
        }
        assert_eq!(tries.check(HERE, at(0)), Err(TooOften { retry_after: SignedDuration::from_secs(10) }));
        assert_eq!(tries.check(HERE, at(4)), Err(TooOften { retry_after: SignedDuration::from_secs(6) }));
        assert_eq!(tries.check(THERE, at(0)), Ok(()));
        assert_eq!(tries.check(HERE, at(10)), Ok(()));
        tries.failed(HERE, at(10));
        assert!(tries.check(HERE, at(19)).is_err());
        // After a while it is as if nothing had been.
        for _ in 0..10 {
            assert_eq!(tries.check(HERE, at(1_000)), Ok(()));
            tries.failed(HERE, at(1_000));
        }
    }

    #[test]
    fn a_flood_from_everywhere_is_held_up_and_those_who_are_known_are_not() {
        let mut tries = Tries::default();
        tries.succeeded(HERE, at(0));
        for n in 0..200 {
            assert_eq!(tries.check(ip(n), at(1)), Ok(()));
            tries.failed(ip(n), at(1));
        }
        assert!(tries.check(ip(1_000_000), at(1)).is_err());
        assert_eq!(tries.check(HERE, at(1)), Ok(()));
        assert_eq!(tries.check(ip(1_000_000), at(2)), Ok(()));
        // What was good an hour ago is a stranger's again.
        for n in 0..200 {
            tries.failed(ip(n), at(3_600));
        }
        assert!(tries.check(HERE, at(3_600)).is_err());
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_known_stay() {
        let mut tries = Tries::default();
        tries.succeeded(HERE, at(0));
        for n in 0..50_000 {
            tries.failed(ip(n), at(i64::from(n) / 1_000));
            assert!(tries.of.len() <= MOST);
        }
        assert!(tries.of.contains_key(&HERE));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_ipv4_in_its_clothes_is_ipv4() {
        let v6 = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(neighbourhood(v6("2001:db8:1:2:3:4:5:6")), v6("2001:db8:1:2::"));
        assert_ne!(neighbourhood(v6("2001:db8:1:3::1")), v6("2001:db8:1:2::"));
        assert_eq!(neighbourhood(v6("::ffff:192.0.2.1")), HERE);
    }

    #[test]
    fn a_clock_that_jumps_back_locks_nobody_out() {
        let mut tries = Tries::default();
        for _ in 0..20 {
            tries.failed(HERE, at(1_000_000));
        }
        for address in [HERE, THERE] {
            assert_eq!(tries.check(address, at(0)), Ok(()));
        }
    }
}
