//! Who is at the other end of the API's socket. Where the host allows no view of one's own, an app of the same user reaches the socket.

/// How far up is looked; nobody's processes are nested deeper.
const DEPTH: usize = 1000;

/// Whether the process, or one that it descends from, is a jail: whoever runs an app does not thereby command the platform. One that has ended
/// since is taken for one.
pub(super) fn is_in_a_jail(pid: i32) -> bool {
    let mut at = pid;
    for _ in 0..DEPTH {
        let Ok(line) = std::fs::read(format!("/proc/{at}/cmdline")) else { return at == pid };
        if line.split(|b| *b == 0).nth(1) == Some(b"__jail") {
            return true;
        }
        match parent(at) {
            Some(next) if next > 1 => at = next,
            _ => return false,
        }
    }
    false
}

/// The program's name, in parentheses, may hold anything; the parent is the second word after it.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tests_are_in_no_jail_and_the_ended_are_taken_for_one() {
        assert!(!super::is_in_a_jail(std::process::id().cast_signed()));
        assert!(super::is_in_a_jail(i32::MAX));
    }
}
