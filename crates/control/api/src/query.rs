//! Query strings: bracketed arrays, ranges, and nothing that a route does not know (contract 0.2).

use percent_encoding::percent_decode_str;
use postern_engine::TimeRange;
use postern_model::page::Order;
use postern_model::{Problem, Timestamp};

/// The parameters that no handler has asked for yet.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Splits and decodes a query string.
    ///
    /// # Errors
    /// 400 when it does not decode to UTF-8.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            // Sent on every path by older clients; it never meant anything here.
            if name != "beta" {
                pairs.push((name, decode(value)?));
            }
        }
        Ok(Self { pairs })
    }

    /// A parameter that stands at most once.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut values = self.all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(Problem::invalid_at(name, "was sent more than once")),
        }
    }

    /// A number within bounds, both included.
    pub(crate) fn number(&mut self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(Problem::invalid_at(name, format!("must be a whole number from {least} to {most}"))),
        }
    }

    /// `limit`, at most `most`, else `default`.
    pub(crate) fn limit(&mut self, default: u32, most: u32) -> Result<u32, Problem> {
        let limit = self.number("limit", 1, u64::from(most))?;
        Ok(limit.map_or(default, |limit| u32::try_from(limit).unwrap_or(most)))
    }

    /// `true` or `false`; absent is false.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    /// `true`, `false` or absent.
    pub(crate) fn optional_flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.text(name)?.as_deref() {
            None => Ok(None),
            Some("false") => Ok(Some(false)),
            Some("true") => Ok(Some(true)),
            Some(_) => Err(Problem::invalid_at(name, "must be `true` or `false`")),
        }
    }

    /// `order`.
    pub(crate) fn order(&mut self, default: Order) -> Result<Order, Problem> {
        match self.text("order")?.as_deref() {
            None => Ok(default),
            Some("asc") => Ok(Order::Asc),
            Some("desc") => Ok(Order::Desc),
            Some(_) => Err(Problem::invalid_at("order", "must be `asc` or `desc`")),
        }
    }

    /// `name[]`, repeated; the name without brackets is the same parameter.
    pub(crate) fn array(&mut self, name: &str) -> Vec<String> {
        let mut values = self.all(&format!("{name}[]"));
        values.extend(self.all(name));
        values
    }

    /// `name[gt]`, `name[gte]`, `name[lt]`, `name[lte]`.
    pub(crate) fn range(&mut self, name: &str) -> Result<TimeRange, Problem> {
        Ok(TimeRange {
            gt: self.instant(&format!("{name}[gt]"))?,
            gte: self.instant(&format!("{name}[gte]"))?,
            lt: self.instant(&format!("{name}[lt]"))?,
            lte: self.instant(&format!("{name}[lte]"))?,
        })
    }

    /// Refuses what nobody asked for: a mistyped filter must not silently select everything.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::invalid_at(name, "is not a parameter of this route")),
        }
    }

    fn instant(&mut self, name: &str) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        // A `+` that was not percent-encoded arrives as a space.
        let instant = text.replace(' ', "+").parse();
        instant.map(Some).map_err(|_| {
            Problem::invalid_at(name, "must be an RFC 3339 timestamp with an offset, such as 2026-01-01T00:00:00Z")
        })
    }

    fn all(&mut self, name: &str) -> Vec<String> {
        let (found, rest) = std::mem::take(&mut self.pairs).into_iter().partition(|(key, _)| key == name);
        self.pairs = rest;
        let found: Vec<(String, String)> = found;
        found.into_iter().map(|(_, value)| value).collect()
    }
}

fn decode(text: &str) -> Result<String, Problem> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Into::into).map_err(|_| Problem::invalid("The query string is not UTF-8."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_read_with_encoded_plain_and_no_brackets() {
        for text in [
            "statuses%5B%5D=idle&statuses%5B%5D=running",
            "statuses[]=idle&statuses[]=running",
            "statuses=idle&statuses=running",
        ] {
            let mut query = Query::parse(text).unwrap();
            assert_eq!(query.array("statuses"), ["idle", "running"], "{text}");
            assert_eq!(query.finish(), Ok(()));
        }
    }

    #[test]
    fn ranges_take_any_offset_and_an_unencoded_plus() {
        for text in [
            "created_at%5Bgte%5D=2026-01-01T00%3A00%3A00%2B00%3A00",
            "created_at[gte]=2026-01-01T00:00:00+00:00",
            "created_at[gte]=2026-01-01T01:00:00%2B01:00",
            "created_at[gte]=2026-01-01T00:00:00Z",
        ] {
            let range = Query::parse(text).unwrap().range("created_at").unwrap();
            assert_eq!(range.gte.unwrap().to_string(), "2026-01-01T00:00:00Z", "{text}");
        }
        for text in ["created_at[gte]=2026-01-01T00:00:00", "created_at[gt]=yesterday"] {
            assert_eq!(Query::parse(text).unwrap().range("created_at").unwrap_err().status(), 400, "{text}");
        }
    }

    #[test]
    fn beta_is_ignored_and_unknown_parameters_are_named() {
        assert_eq!(Query::parse("beta=true").unwrap().finish(), Ok(()));
        let problem = Query::parse("include_archivd=true").unwrap().finish().unwrap_err();
        assert!(problem.message.starts_with("include_archivd:"), "{problem}");
    }

    #[test]
    fn numbers_and_flags_keep_their_bounds() {
        for (text, expected) in [("", Ok(20)), ("limit=1", Ok(1)), ("limit=100", Ok(100))] {
            assert_eq!(Query::parse(text).unwrap().limit(20, 100), expected, "{text}");
        }
        for text in ["limit=0", "limit=101", "limit=-1", "limit=x", "limit=", "limit=1&limit=2"] {
            assert_eq!(Query::parse(text).unwrap().limit(20, 100).unwrap_err().status(), 400, "{text}");
        }
        assert_eq!(Query::parse("a=true").unwrap().flag("a"), Ok(true));
        assert!(Query::parse("a=1").unwrap().flag("a").is_err());
        assert!(Query::parse("a=%ff").is_err());
    }
}
