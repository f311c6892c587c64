//! Headers and parameters that ask an upstream to act on another method, path or host than the one decided on.
//! The list is data (`data/overrides.txt`). Bodies are not looked at (a stated limit).

use crate::foreign::{Kind, keys, listed_in, read_list, same_header};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// Something in a request that contradicts its method, path or host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Override {
    /// A header, by name.
    Header(String),
    /// A query key.
    Query(String),
}

static LIST: LazyLock<Vec<(Kind, &'static str, &'static str)>> =
    LazyLock::new(|| read_list(include_str!("../data/overrides.txt")));

/// Every override in a request.
#[must_use]
pub fn find(headers: &http::HeaderMap, query: Option<&[u8]>) -> Vec<Override> {
    let in_headers = LIST
        .iter()
        .filter(|(kind, name, _)| *kind == Kind::Header && headers.keys().any(|sent| same_header(sent.as_str(), name)))
        .map(|(_, name, _)| Override::Header((*name).to_owned()));
    let in_query = query
        .into_iter()
        .flat_map(keys)
        .filter_map(|key| listed_in(&LIST, Kind::Key, &key))
        .map(|name| Override::Query(name.to_owned()));
    in_headers.chain(in_query).collect()
}

/// Whether a header is one of them.
pub(crate) fn is_header(name: &http::HeaderName) -> bool {
    LIST.iter().any(|(kind, listed, _)| *kind == Kind::Header && same_header(name.as_str(), listed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_the_list_is_found_and_has_a_reason() {
        for (kind, name, reason) in LIST.iter() {
            let mut headers = http::HeaderMap::new();
            let found = match kind {
                Kind::Header => {
                    headers.insert(*name, "x".parse().unwrap());
                    find(&headers, None)
                }
                Kind::Key => find(&headers, Some(format!("a=b&{name}=DELETE").as_bytes())),
            };
            assert_eq!(found.len(), 1, "{name}");
            assert!(reason.len() > 10, "{name}");
        }
    }

    #[test]
    fn underscores_do_not_hide_a_header() {
        for name in ["x_http_method_override", "x-http_method-override", "x_original_url", "x_forwarded_host"] {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::HeaderName::from_static(name), "DELETE".parse().unwrap());
            assert_eq!(find(&headers, None), [Override::Header(name.replace('_', "-"))]);
        }
    }

    #[test]
    fn an_ordinary_request_has_none() {
        let mut headers = http::HeaderMap::new();
        headers.insert("accept", "*/*".parse().unwrap());
        assert_eq!(find(&headers, Some(b"method=x&q=_method")), []);
    }

    #[test]
    fn an_encoded_key_is_the_same_key() {
        assert_eq!(find(&http::HeaderMap::new(), Some(b"%5Fmethod=DELETE")), [Override::Query("_method".to_owned())]);
    }
}
