//! A network: the addresses that begin alike.

use core::net::{IpAddr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;

/// All addresses with these first bits: `10.0.0.0/8`, `2001:db8::/32`; `192.0.2.1` is one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a network: {rule}")]
pub struct InvalidNetwork {
    text: String,
    rule: &'static str,
}

impl Network {
    /// Whether an address is in it. One of IPv4 that came as ::ffff:192.0.2.1 is one of IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => alike(u32::from(net).into(), u32::from(address).into(), 32 - u32::from(self.prefix)),
            (IpAddr::V6(net), IpAddr::V6(address)) => alike(net.into(), address.into(), 128 - u32::from(self.prefix)),
            _ => false,
        }
    }
}

/// Whether two numbers differ in their last so many bits only.
fn alike(a: u128, b: u128, free: u32) -> bool {
    a.checked_shr(free).unwrap_or(0) == b.checked_shr(free).unwrap_or(0)
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    /// Bits behind the prefix are refused: `10.0.0.1/8` is most likely a slip.
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let fail = |rule| InvalidNetwork { text: text.chars().take(100).collect(), rule };
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| fail("write it as 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|p| *p <= bits && prefix.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| fail("after the slash are 0 to 32, or 128, bits"))?,
        };
        let number = match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
            IpAddr::V6(v6) => Ipv6Addr::into(v6),
        };
        if number.checked_shl(prefix.into()).unwrap_or(0) != 0 {
            return Err(fail("its address has bits beyond those that the slash counts"));
        }
        // Addresses are compared as those of IPv4 where they are some: so is this.
        match (address, address.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(four)) if prefix >= 96 => Ok(Self { address: four.into(), prefix: prefix - 96 }),
            _ => Ok(Self { address, prefix }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_begin_alike_are_in_it() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("172.16.0.0/12", "172.31.255.255", "172.32.0.0"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::"),
            ("::/0", "::1", "127.0.0.1"),
            ("127.0.0.0/8", "::ffff:127.0.0.1", "::1"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"),
        ] {
            let read: Network = network.parse().expect(network);
            assert!(read.contains(inside.parse().expect("an address")), "{network} {inside}");
            assert!(!read.contains(outside.parse().expect("an address")), "{network} {outside}");
            assert_eq!(read.to_string().parse(), Ok(read));
        }
    }

    #[test]
    fn what_is_none_says_why() {
        for (text, why) in [
            ("", "write it"),
            ("10.0.0/8", "write it"),
            ("localhost", "write it"),
            ("10.0.0.0/33", "bits"),
            ("10.0.0.0/", "bits"),
            ("10.0.0.0/+8", "bits"),
            ("10.0.0.1/8", "beyond"),
            ("2001:db8::1/32", "beyond"),
        ] {
            let refused = text.parse::<Network>().expect_err(text).to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
