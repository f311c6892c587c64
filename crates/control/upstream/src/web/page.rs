//! What arrived, as the model is shown it: text as it is, HTML as text with its links, anything else not at all.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use postern_policy::web::WebUrl;
use postern_session::{WebErrorCode, WebFailure};

use super::{BODY_BYTES, html};

/// What a token is taken for, in characters.
const CHARACTERS_PER_TOKEN: u64 = 4;
/// The longest title that is shown, in characters.
const LONGEST_TITLE: usize = 300;

/// A response that was read.
pub(super) struct Received {
    pub(super) url: WebUrl,
    /// In lower case.
    pub(super) content_type: Option<String>,
    pub(super) bytes: Vec<u8>,
    /// Whether there was more of it than is read.
    pub(super) is_cut: bool,
}

/// A page as text.
#[derive(Debug)]
pub(super) struct Page {
    url: WebUrl,
    title: Option<String>,
    text: String,
    is_cut: bool,
}

/// What can be made of a kind of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Html,
    Text,
}

/// Whether this kind of content can be shown: asked before it is read.
pub(super) fn check(content_type: Option<&str>) -> Result<(), WebFailure> {
    kind(content_type).map(drop)
}

fn kind(content_type: Option<&str>) -> Result<Kind, WebFailure> {
    let essence = content_type.unwrap_or("text/plain").split(';').next().unwrap_or_default().trim();
    match essence {
        "text/html" | "application/xhtml+xml" => Ok(Kind::Html),
        "application/json"
        | "application/xml"
        | "application/javascript"
        | "application/yaml"
        | "application/x-yaml"
        | "application/toml"
        | "application/x-ndjson"
        | "application/sql" => Ok(Kind::Text),
        _ if essence.starts_with("text/") => Ok(Kind::Text),
        _ if essence.starts_with("application/") && (essence.ends_with("+json") || essence.ends_with("+xml")) => {
            Ok(Kind::Text)
        }
        _ => Err(unsupported("The page is no text: only HTML, plain text, Markdown, JSON, XML and the like are read.")),
    }
}

/// The body without its compression, and whether it is cut.
pub(super) fn decoded(bytes: Vec<u8>, is_cut: bool, encoding: Option<&str>) -> Result<(Vec<u8>, bool), WebFailure> {
    match encoding {
        None | Some("" | "identity") => Ok((bytes, is_cut)),
        Some("gzip" | "x-gzip") => {
            let mut text = Vec::new();
            let read = MultiGzDecoder::new(bytes.as_slice()).take(BODY_BYTES as u64).read_to_end(&mut text);
            let is_full = text.len() == BODY_BYTES;
            match read {
                Ok(_) => Ok((text, is_cut || is_full)),
                // What was cut ends amid its compression.
                Err(_) if is_cut => Ok((text, true)),
                Err(_) => Err(unsupported("The page's compression is broken.")),
            }
        }
        Some(_) => Err(unsupported("The page is compressed in a way that was not asked for.")),
    }
}

pub(super) fn read(received: Received) -> Result<Page, WebFailure> {
    let Received { url, content_type, bytes, is_cut } = received;
    let kind = kind(content_type.as_deref())?;
    let charset = content_type.as_deref().and_then(charset).map(str::to_owned);
    let text = match (charset, kind) {
        (Some(charset), _) => characters(&bytes, &charset)?,
        (None, Kind::Html) => characters(&bytes, &html::charset(&bytes).unwrap_or_else(|| "utf-8".into()))?,
        (None, Kind::Text) => characters(&bytes, "utf-8")?,
    };
    let (title, text) = match kind {
        Kind::Html => html::read(&text, &url),
        Kind::Text => (None, text),
    };
    // A character may not fit into what is left of it.
    let is_cut = is_cut || text.len() + char::MAX_LEN_UTF8 > html::MOST_TEXT;
    let title = title.map(|title| title.chars().filter(|c| is_shown(*c)).take(LONGEST_TITLE).collect());
    let text = text.chars().filter(|c| is_shown(*c)).collect();
    Ok(Page { url, title, text, is_cut })
}

/// Whether a log and a terminal may get it.
fn is_shown(c: char) -> bool {
    !c.is_control() || matches!(c, '\n' | '\t')
}

impl Page {
    /// What the model is shown, of at most about so many tokens of the page.
    pub(super) fn shown(self, max_tokens: Option<u64>) -> Result<String, WebFailure> {
        let most = max_tokens.map_or(u64::MAX, |tokens| tokens.saturating_mul(CHARACTERS_PER_TOKEN));
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let text = self.text.trim();
        let (text, is_short) = match text.char_indices().nth(most) {
            Some((end, _)) => (&text[..end], true),
            None => (text, false),
        };
        let mut shown = format!("URL: {}\n", self.url);
        if let Some(title) = &self.title {
            shown.push_str(&format!("Title: {title}\n"));
        }
        shown.push('\n');
        shown.push_str(if text.is_empty() { "(no text)" } else { text });
        if is_short || self.is_cut {
            shown.push_str("\n\n[The page goes on: only its beginning is shown.]");
        }
        Ok(shown)
    }
}

/// The charset that a content type names.
fn charset(content_type: &str) -> Option<&str> {
    let named = content_type.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("charset="));
    named.map(|name| name.trim().trim_matches('"'))
}

fn characters(bytes: &[u8], charset: &str) -> Result<String, WebFailure> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match charset {
        "utf-8" | "utf8" | "us-ascii" | "ascii" => {
            if bytes.iter().take(4096).any(|byte| *byte == 0) {
                return Err(unsupported("The page is no text, whatever it calls itself."));
            }
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
        "iso-8859-1" | "iso8859-1" | "latin1" | "iso-8859-15" | "windows-1252" | "cp1252" => {
            Ok(bytes.iter().map(|byte| western(*byte)).collect())
        }
        other => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => {
                let name: String = other.chars().filter(char::is_ascii_graphic).take(40).collect();
                Err(unsupported(&format!("The page is written in `{name}`: UTF-8 and Western European are read.")))
            }
        },
    }
}

/// A byte of windows-1252, which is what pages mean that say ISO-8859-1.
fn western(byte: u8) -> char {
    const HIGH: [char; 32] = [
        '\u{20ac}', '\u{fffd}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}', '\u{2c6}',
        '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{fffd}', '\u{17d}', '\u{fffd}', '\u{fffd}', '\u{2018}',
        '\u{2019}', '\u{201c}', '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}', '\u{2dc}', '\u{2122}', '\u{161}',
        '\u{203a}', '\u{153}', '\u{fffd}', '\u{17e}', '\u{178}',
    ];
    match byte {
        0x80..=0x9f => HIGH[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

fn unsupported(message: &str) -> WebFailure {
    WebFailure::new(WebErrorCode::UnsupportedContentType, format!("{message} Use another source."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn received(content_type: &str, bytes: &[u8]) -> Received {
        let url = "https://a.example/x".parse().unwrap();
        Received { url, content_type: Some(content_type.to_owned()), bytes: bytes.to_vec(), is_cut: false }
    }

    fn shown(content_type: &str, bytes: &[u8]) -> Result<String, WebErrorCode> {
        read(received(content_type, bytes)).and_then(|page| page.shown(None)).map_err(|failure| failure.code)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn text_is_shown_as_it_is_and_what_is_no_text_not_at_all() {
        for (content_type, bytes, expected) in [
            ("text/plain", &b"a < b"[..], Ok("a < b")),
            ("application/json", b"{\"a\":1}", Ok("{\"a\":1}")),
            ("application/ld+json", b"[]", Ok("[]")),
            ("text/markdown; charset=utf-8", "# \u{e4}".as_bytes(), Ok("# \u{e4}")),
            ("text/plain; charset=\"iso-8859-1\"", b"\xe4 \x80", Ok("\u{e4} \u{20ac}")),
            ("text/html", b"<meta charset=windows-1252>\xfc", Ok("\u{fc}")),
            ("text/html; charset=utf-8", "<p>\u{fc}<script>x</script>".as_bytes(), Ok("\u{fc}")),
            ("text/plain", b"\xef\xbb\xbfx\x1b[2J\x07", Ok("x[2J")),
            ("text/plain", b"", Ok("(no text)")),
            ("text/plain; charset=utf-8", b"\xff", Ok("\u{fffd}")),
            ("text/plain; charset=shift_jis", b"\x83\x65", Err(WebErrorCode::UnsupportedContentType)),
            ("text/plain", b"PK\0\0", Err(WebErrorCode::UnsupportedContentType)),
            ("application/pdf", b"%PDF", Err(WebErrorCode::UnsupportedContentType)),
            ("image/png", b"", Err(WebErrorCode::UnsupportedContentType)),
            ("application/octet-stream", b"x", Err(WebErrorCode::UnsupportedContentType)),
        ] {
            let expected = expected.map(|text| format!("URL: https://a.example/x\n\n{text}"));
            assert_eq!(shown(content_type, bytes), expected, "{content_type} {bytes:?}");
        }
    }

    #[test]
    fn a_page_is_cut_by_tokens_between_characters_and_says_so() {
        let page = || read(received("text/plain", "\u{e4}".repeat(50).as_bytes())).unwrap();
        let cut = page().shown(Some(3)).unwrap();
        assert!(cut.contains(&format!("\n{}\n\n[The page goes on", "\u{e4}".repeat(12))), "{cut}");
        assert!(!page().shown(Some(13)).unwrap().contains("goes on"));
        assert!(!page().shown(Some(u64::MAX)).unwrap().contains("goes on"));
    }

    #[test]
    fn a_title_gives_no_terminal_orders() {
        let shown = shown("text/html", b"<title>a\x1b[2J&#27;]0;b&#7;</title>x\x1b[1m&#155;").unwrap();
        assert_eq!(shown, "URL: https://a.example/x\nTitle: a[2J]0;b\n\nx[1m");
    }

    #[test]
    fn a_page_that_grows_as_text_is_cut_and_says_so() {
        let base = format!("<base href='https://a.example/{}/'>", "d".repeat(1500));
        let grows = format!("{base}{}", "<a href=x>y</a>".repeat(5000));
        let plain = "<p>x".to_owned() + &"\u{e4}".repeat(html::MOST_TEXT);
        for page in [grows, plain] {
            let shown = shown("text/html", page.as_bytes()).unwrap();
            assert!(shown.len() <= html::MOST_TEXT + 200 && shown.ends_with("only its beginning is shown.]"));
        }
    }

    #[test]
    fn a_title_is_cut() {
        let page = format!("<title>{}</title>x", "t".repeat(LONGEST_TITLE + 1));
        let shown = shown("text/html", page.as_bytes()).unwrap();
        assert!(shown.contains(&format!("Title: {}\n\nx", "t".repeat(LONGEST_TITLE))), "{shown}");
    }

    #[test]
    fn compression_is_undone_as_far_as_the_bound() {
        let (text, is_cut) = decoded(gzip(b"hello"), false, Some("gzip")).unwrap();
        assert_eq!((text.as_slice(), is_cut), (&b"hello"[..], false));
        let bomb = gzip(&vec![b'x'; BODY_BYTES * 3]);
        assert!(bomb.len() < BODY_BYTES / 50);
        let (text, is_cut) = decoded(bomb.clone(), false, Some("gzip")).unwrap();
        assert_eq!((text.len(), is_cut), (BODY_BYTES, true));
        let (text, is_cut) = decoded(bomb[..bomb.len() / 2].to_vec(), true, Some("gzip")).unwrap();
        assert!(!text.is_empty() && is_cut);
        for (bytes, encoding) in [(b"no gzip".to_vec(), "gzip"), (gzip(b"x"), "br"), (gzip(b"x"), "gzip, gzip")] {
            let failure = decoded(bytes, false, Some(encoding)).unwrap_err();
            assert_eq!(failure.code, WebErrorCode::UnsupportedContentType, "{encoding}");
        }
    }
}
