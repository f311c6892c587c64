//! Cookies that upstreams set in a session, to tell them from foreign ones when they come back. Bounded in number and bytes: an upstream chooses both.

use std::collections::{BTreeSet, VecDeque};

use postern_policy::Host;

use crate::limits;

/// Each with its host, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Cookies {
    kept: VecDeque<(Host, String)>,
    bytes: usize,
}

impl Cookies {
    /// Notes a `name=value` that an upstream set; one that is too long is not kept, and is foreign when it comes back.
    pub(crate) fn note(&mut self, host: &Host, cookie: &str) {
        let known = self.kept.iter().any(|(at, known)| at == host && known == cookie);
        if known || cookie.len() > limits::COOKIE_BYTES {
            return;
        }
        self.bytes += cookie.len();
        self.kept.push_back((host.clone(), cookie.to_owned()));
        while self.kept.len() > limits::COOKIES_KEPT || self.bytes > limits::COOKIES_BYTES {
            let Some((_, oldest)) = self.kept.pop_front() else { return };
            self.bytes -= oldest.len();
        }
    }

    /// Those of a host.
    pub(crate) fn of(&self, host: &Host) -> BTreeSet<String> {
        self.kept.iter().filter(|(at, _)| at == host).map(|(_, cookie)| cookie.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    #[test]
    fn cookies_are_bounded_in_number_and_the_oldest_go_first() {
        let (mut cookies, here) = (Cookies::default(), host("api.test"));
        for number in 0..=limits::COOKIES_KEPT {
            cookies.note(&here, &format!("c={number}"));
            cookies.note(&here, &format!("c={number}"));
        }
        let kept = cookies.of(&here);
        assert_eq!(kept.len(), limits::COOKIES_KEPT);
        assert!(!kept.contains("c=0") && kept.contains(&format!("c={}", limits::COOKIES_KEPT)));
        assert!(cookies.of(&host("other.test")).is_empty());
    }

    #[test]
    fn cookies_are_bounded_in_bytes_one_by_one_and_together() {
        let (mut cookies, here) = (Cookies::default(), host("api.test"));
        let long = |number: usize, bytes: usize| format!("{number:03}={}", "x".repeat(bytes - 4));
        cookies.note(&here, &long(0, limits::COOKIE_BYTES + 1));
        assert!(cookies.of(&here).is_empty());
        let room = limits::COOKIES_BYTES / limits::COOKIE_BYTES;
        for number in 0..=room {
            cookies.note(&here, &long(number, limits::COOKIE_BYTES));
        }
        let kept = cookies.of(&here);
        assert_eq!((kept.len(), cookies.bytes), (room, limits::COOKIES_BYTES));
        assert!(!kept.contains(&long(0, limits::COOKIE_BYTES)) && kept.contains(&long(room, limits::COOKIE_BYTES)));
    }
}
