//! How a deploy's requests are treated, besides being led to an instance.

use super::{Domain, Network};
use crate::release::Release;
use jiff::Timestamp;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use url::Url;

/// One deploy's settings of the router; by default it does nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manners {
    /// Every request is answered with a page that says so: H80.
    pub maintenance: bool,
    /// Requests wait, as while a change is under way.
    pub paused: bool,
    /// What comes by plain HTTP is sent on to the router's HTTPS port.
    pub https_only: bool,
    /// How long browsers are told to come by HTTPS only (RFC 6797); `None` tells them nothing.
    pub hsts: Option<Duration>,
    /// Who is believed what it says of where a request came from: the proxies before the router.
    pub trusted: Vec<Network>,
    /// The address of what is shown where the app cannot answer: config var `ERROR_PAGE_URL`, as on Heroku.
    pub error_page: Option<String>,
    /// The same during maintenance: `MAINTENANCE_PAGE_URL`.
    pub maintenance_page: Option<String>,
    /// So many requests at a time are sent to one instance; `None`: as many as come.
    pub concurrency: Option<u32>,
    /// So many more wait for their turn; beyond that H11.
    pub queue: u32,
    /// Who comes to the same release again while there are several.
    pub sticky: Sticky,
    /// How long an instance may take for the first byte of an answer before that is H12; `None`: as long as everywhere. The platform's own API
    /// answers some requests when what they ask for is done.
    pub first_byte: Option<Duration>,
    /// What answers is the platform itself: while there is none, whatever listens where it did is asked nothing.
    pub of_control: bool,
    /// The split that its requests are counted for, release by release; another number is another split. `None`: they are not counted.
    pub counted: Option<i64>,
}

/// By what a client is known again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sticky {
    /// It is not: each request is led by the weights alone.
    #[default]
    No,
    /// A cookie of the router's, which names the release.
    Cookie,
    /// The value of this header: equal values lead to one release.
    Header(String),
}

/// A text that is no [`Sticky`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is nothing that a client is known by: write `cookie`, or `header:` and the name of a header")]
pub struct InvalidSticky(String);

impl FromStr for Sticky {
    type Err = InvalidSticky;

    /// `no`, `cookie`, `header:X-User`
    fn from_str(text: &str) -> Result<Self, InvalidSticky> {
        let is_name = |name: &&str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            !name.is_empty() && name.len() <= 100 && name.bytes().all(plain)
        };
        match text.strip_prefix("header:").filter(is_name) {
            Some(name) => Ok(Self::Header(name.to_ascii_lowercase())),
            None if text == "cookie" => Ok(Self::Cookie),
            None if text == "no" => Ok(Self::No),
            None => Err(InvalidSticky(text.chars().take(100).collect())),
        }
    }
}

impl fmt::Display for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::Cookie => f.write_str("cookie"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}

/// What leads to a deploy and how it is treated, as far as people say it of the deploy and not the app of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Front {
    /// The domains that were added; the app's own name leads to it besides.
    pub domains: Vec<Domain>,
    /// Maintenance, pause, HTTPS.
    pub manners: Manners,
    /// When a pause ends by itself.
    pub paused_until: Option<Timestamp>,
}

/// The config var with the address of what is shown where the app cannot answer.
pub const ERROR_PAGE: &str = "ERROR_PAGE_URL";
/// The one with what is shown during maintenance.
pub const MAINTENANCE_PAGE: &str = "MAINTENANCE_PAGE_URL";

impl Front {
    /// All that the router is to know, with what the release that serves says of itself.
    pub fn manners(&self, release: Option<&Release>) -> Manners {
        let mut manners = self.manners.clone();
        if let Some(release) = release {
            let page = |name| release.config.vars.get(name).and_then(|var| page_address(&var.value));
            (manners.error_page, manners.maintenance_page) = (page(ERROR_PAGE), page(MAINTENANCE_PAGE));
            let web = release.slug.rules.iter().find(|(kind, _)| kind.is_web()).map(|(_, rules)| rules);
            manners.concurrency = web.and_then(|rules| rules.concurrency);
            manners.queue = web.and_then(|rules| rules.queue).unwrap_or(QUEUE);
        }
        manners
    }

    /// The same without a pause that is over.
    pub fn at(mut self, now: Timestamp) -> Self {
        if self.wake().is_some_and(|until| until <= now) {
            (self.manners.paused, self.paused_until) = (false, None);
        }
        self
    }

    /// When it says something else by itself.
    pub fn wake(&self) -> Option<Timestamp> {
        self.paused_until.filter(|_| self.manners.paused)
    }
}

/// So many requests wait for an instance that takes more, where the app does not say how many.
const QUEUE: u32 = 100;

/// The names of the config vars of a release that are to be addresses of pages and are none that a page can show.
pub fn bad_pages(release: &Release) -> Vec<&'static str> {
    let bad = |name: &&str| release.config.vars.get(*name).is_some_and(|var| !var.value.is_empty() && page_address(&var.value).is_none());
    [ERROR_PAGE, MAINTENANCE_PAGE].into_iter().filter(bad).collect()
}

/// An address that a page may show within itself: of http or https, with a host, and without a name and password. As browsers write it.
fn page_address(text: &str) -> Option<String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
    (url.username().is_empty() && url.password().is_none()).then(|| url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_by_itself() {
        let at = |s| Timestamp::from_second(s).expect("a time");
        let manners = Manners { paused: true, ..Manners::default() };
        let front = Front { manners, paused_until: Some(at(10)), ..Front::default() };
        assert_eq!(front.wake(), Some(at(10)));
        assert!(front.clone().at(at(9)).manners.paused && !front.clone().at(at(10)).manners.paused);
        assert!(Front { paused_until: None, ..front.clone() }.at(at(99)).manners.paused);
        assert_eq!(Front { manners: Manners::default(), ..front }.wake(), None);
    }

    #[test]
    fn clients_are_known_by_a_cookie_or_a_header() {
        for (text, want) in [("cookie", "cookie"), ("header:X-User", "header:x-user"), ("no", "no")] {
            assert_eq!(text.parse::<Sticky>().map(|s| s.to_string()), Ok(want.to_owned()));
        }
        for text in ["", "Cookie", "header:", "header:a b", "header:a:b", "header:é"] {
            assert!(text.parse::<Sticky>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_addresses_of_pages_are_shown() {
        let fine = [
            ("https://pages.example/x.html?a=1", "https://pages.example/x.html?a=1"),
            ("http://h/\"><script>", "http://h/%22%3E%3Cscript%3E"),
            ("https://h/a'b#c\"d", "https://h/a'b#c%22d"),
        ];
        for (text, want) in fine {
            assert_eq!(page_address(text).as_deref(), Some(want));
        }
        for text in ["", "x.html", "//h/x", "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "https://u:p@h/", "https://"] {
            assert_eq!(page_address(text), None, "{text}");
        }
    }
}
