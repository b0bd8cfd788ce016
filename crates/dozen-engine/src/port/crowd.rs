//! How many clients are let in, in all and of one address.

use super::control::{Limits, PER_ADDRESS};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Descriptors that are kept for all but connections: logs, listeners, the runtimes' own.
const KEPT: u64 = 128;

/// So many bytes of heads that are not whole are kept of all clients together.
const MOST_HELD: usize = 64 << 20;

/// The clients of all workers.
pub(super) struct Crowd {
    most: usize,
    of_one: Option<usize>,
    all: AtomicUsize,
    /// Only those that are counted one by one.
    each: Mutex<HashMap<IpAddr, usize>>,
    left: Notify,
    held: AtomicUsize,
}

impl Crowd {
    /// `files` is the limit of open files. A connection whose request is in flight needs another one to an instance; most connections idle, so
    /// that a third as many are kept for that.
    pub(super) fn new(limits: &Limits, files: Option<u64>) -> Self {
        let room = usize::try_from(files.unwrap_or(u64::MAX).saturating_sub(KEPT) / 4 * 3).unwrap_or(usize::MAX);
        let most = if limits.connections == 0 { room } else { limits.connections };
        Self {
            most: most.max(1),
            of_one: limits.per_address,
            all: AtomicUsize::new(0),
            each: Mutex::default(),
            left: Notify::new(),
            held: AtomicUsize::new(0),
        }
    }

    /// Waits until there is room for one more.
    pub(super) async fn room(&self) {
        loop {
            let left = self.left.notified();
            if self.all.load(Ordering::Acquire) < self.most {
                return;
            }
            left.await;
        }
    }

    /// Counts a client; `None` if its address has too many connections.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Guest> {
        let counted = match self.of_one {
            None if peer.is_loopback() => None,
            limit => {
                let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
                let count = each.entry(whole(peer)).or_default();
                if *count >= limit.unwrap_or(PER_ADDRESS) {
                    return None;
                }
                *count += 1;
                Some(whole(peer))
            }
        };
        self.all.fetch_add(1, Ordering::AcqRel);
        Some(Guest { crowd: self.clone(), counted, held: 0 })
    }
}

/// What one client has: of IPv6 it is a /64.
fn whole(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V6(six) if !six.is_loopback() => IpAddr::V6(Ipv6Addr::from(u128::from(six) >> 64 << 64)),
        other => other,
    }
}

/// One connection, counted until dropped.
pub(super) struct Guest {
    crowd: Arc<Crowd>,
    counted: Option<IpAddr>,
    held: usize,
}

impl Guest {
    /// So many bytes are kept for this client now. Whether there is room for them.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.held, bytes);
        match bytes.checked_sub(before) {
            Some(more) => self.crowd.held.fetch_add(more, Ordering::Relaxed) + more <= MOST_HELD,
            None => {
                self.crowd.held.fetch_sub(before - bytes, Ordering::Relaxed);
                true
            }
        }
    }

    /// How many are.
    pub(super) fn held(&self) -> usize {
        self.held
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.hold(0);
        if let Some(address) = self.counted {
            let mut each = self.crowd.each.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = each.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    each.remove(&address);
                }
            }
        }
        if self.crowd.all.fetch_sub(1, Ordering::AcqRel) >= self.crowd.most {
            self.crowd.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_so_many_and_this_host_as_many_as_it_likes() {
        let crowd = Arc::new(Crowd::new(&Limits::default(), None));
        let mut guests: Vec<_> = (0..PER_ADDRESS).map(|n| crowd.admit(ip(&format!("2001:db8::{n:x}"))).expect("room")).collect();
        assert!(crowd.admit(ip("2001:db8::ffff:1")).is_none() && crowd.admit(ip("2001:db8:0:1::1")).is_some());
        assert!((0..=PER_ADDRESS).map(|_| crowd.admit(ip("127.0.0.1"))).collect::<Vec<_>>().iter().all(Option::is_some));
        guests.pop();
        assert!(crowd.admit(ip("2001:db8::1")).is_some());
        guests.clear();
        assert!(crowd.each.lock().expect("unpoisoned").is_empty());
        assert_eq!(crowd.all.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn all_together_hold_so_much() {
        let crowd = Arc::new(Crowd::new(&Limits::default(), None));
        let mut guests: Vec<_> = (0..64).map(|_| crowd.admit(ip("127.0.0.1")).expect("room")).collect();
        assert!(guests.iter_mut().all(|g| g.hold(1 << 20)));
        let mut one = crowd.admit(ip("127.0.0.1")).expect("room");
        assert!(!one.hold(1) && guests[0].hold(10) && one.hold(1));
        drop((guests, one));
        assert_eq!(crowd.held.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn who_finds_no_room_waits_for_it() {
        let crowd = Arc::new(Crowd::new(&Limits { connections: 1, ..Limits::default() }, Some(1_024)));
        crowd.room().await;
        let guest = crowd.admit(ip("192.0.2.1")).expect("room");
        let waits = crowd.room();
        let mut waits = std::pin::pin!(waits);
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx).is_pending())).await);
        drop(guest);
        waits.await;
        assert_eq!(Crowd::new(&Limits::default(), Some(1_024)).most, 672);
    }
}
