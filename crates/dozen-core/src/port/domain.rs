//! A domain: the name that people call a deploy by, perhaps with a path below it.

use crate::ids::AppName;
use std::fmt;
use std::str::FromStr;
use url::Host;

/// A host name, `*.` and a host name, or an address, in lower case; and perhaps a path: `shop.example.com/api`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain {
    host: String,
    /// Begins with `/` and does not end with one; empty is the whole host.
    path: String,
}

/// A text that is no [`Domain`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a domain: {rule}")]
pub struct InvalidDomain {
    text: String,
    rule: &'static str,
}

/// A name in DNS (RFC 1035, 2.3.4).
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;
/// A path is a short prefix.
const MAX_PATH: usize = 200;

impl Domain {
    /// The name that an app has by itself, on this machine: `shop.localhost`. `None` for an app whose name is no label.
    pub fn of_app(app: &AppName) -> Option<Self> {
        format!("{app}.localhost").parse().ok()
    }

    /// The host, `*.example.com` among them.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `/api`; empty is the whole host.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it stands for all names one label below.
    pub fn is_wildcard(&self) -> bool {
        self.host.starts_with("*.")
    }

    /// Whether the outside world could know it: a name with a dot that is not of this machine or network. Others cannot have a public
    /// certificate (RFC 6761, RFC 6762, RFC 8375).
    pub fn is_public(&self) -> bool {
        let own = ["localhost", "local", "internal", "test", "example", "invalid", "home.arpa", "onion", "lan"];
        let last = |own: &str| self.host.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let name = self.host.contains('.') && !matches!(Host::parse(&self.host), Ok(Host::Ipv4(_) | Host::Ipv6(_)));
        name && !own.iter().any(|own| last(own))
    }
}

impl FromStr for Domain {
    type Err = InvalidDomain;

    /// As people write it: an upper case letter, a final dot or slash do not matter; a scheme and a port are refused, since a domain has none.
    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let fail = |rule| Err(InvalidDomain { text: text.chars().take(300).collect(), rule });
        if text.contains("://") {
            return fail("leave out the scheme, such as `https://`");
        }
        let (host, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let path = path.trim_end_matches('/');
        if path.len() > MAX_PATH || path.split('/').skip(1).any(|s| matches!(s, "" | "." | "..")) {
            return fail("its path is at most 200 characters, of segments that are neither empty nor dots");
        }
        if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.~%+@".contains(&b)) {
            return fail("its path has letters, digits and -_.~%+@ only");
        }
        if host.starts_with('[') {
            return match Host::parse(&host) {
                Ok(Host::Ipv6(_)) => Ok(Self { host, path: path.to_owned() }),
                _ => fail("there is no address between the brackets"),
            };
        }
        if host.contains(':') {
            return fail("leave out the port: a domain leads on every port");
        }
        let name = host.strip_prefix("*.").unwrap_or(&host);
        if !name.is_ascii() {
            return fail("write it as DNS has it, in ASCII (`xn--…`)");
        }
        let fits = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if host.len() > MAX_HOST || !name.split('.').all(fits) {
            return fail("use letters, digits and `-`, in labels of 1 to 63 characters, at most 253 in all");
        }
        if host.starts_with("*.") && !name.contains('.') {
            return fail("`*.` stands before a name with a dot");
        }
        Ok(Self { host, path: path.to_owned() })
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_read_as_people_write_it() {
        for (text, want) in [
            ("Shop.Example.COM.", "shop.example.com"),
            ("shop.example.com/", "shop.example.com"),
            ("shop.example.com/API/v1/", "shop.example.com/API/v1"),
            ("*.example.com", "*.example.com"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]/x", "[::1]/x"),
        ] {
            assert_eq!(text.parse::<Domain>().map(|d| d.to_string()), Ok(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_none_says_why() {
        for (text, why) in [
            ("https://shop.example.com", "scheme"),
            ("shop.example.com:80", "port"),
            ("", "labels"),
            ("/api", "labels"),
            ("a..b", "labels"),
            ("-a.test", "labels"),
            ("a b.test", "labels"),
            ("*.test", "dot"),
            ("a.*.test", "labels"),
            ("bücher.example", "ASCII"),
            ("[::g]", "address"),
            ("a.test/../x", "segments"),
            ("a.test//x", "segments"),
            ("a.test/x?y", "path"),
            (&format!("{}.test", "a".repeat(64)), "labels"),
            (&"a.".repeat(200), "labels"),
        ] {
            let refused = text.parse::<Domain>().expect_err(text).to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn only_names_of_the_world_are_public() {
        let public = |text: &str| text.parse::<Domain>().expect("a domain").is_public();
        assert!(public("shop.example.com") && public("*.shop.dev/x") && public("mylocalhost.com"));
        for own in ["localhost", "shop.localhost", "nas.local", "a.test", "10.0.0.1", "[::1]", "intranet", "x.home.arpa"] {
            assert!(!public(own), "{own}");
        }
    }
}
