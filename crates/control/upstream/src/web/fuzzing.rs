//! What is made of any page, as a plain function: the fuzz target and the tests over its corpus call it. It panics where a promise is broken.

use postern_policy::web::WebUrl;

use super::html;
use super::page::{self, Received};

/// Whatever a page holds, its text is bounded, gives a terminal no orders and lets no link lead anywhere but to a URL that may be asked for.
///
/// # Panics
/// When one of these does not hold.
pub fn html(bytes: &[u8]) {
    for content_type in ["text/html", "text/html; charset=windows-1252", "text/html; charset=unknown", "text/plain"] {
        let (url, content_type) = (url(), Some(content_type.to_owned()));
        let Ok(page) = page::read(Received { url, content_type, bytes: bytes.to_vec(), is_cut: false }) else {
            continue;
        };
        let Ok(shown) = page.shown(None) else { continue };
        assert!(!shown.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')), "{shown:?}");
        assert!(shown.len() <= html::MOST_TEXT + FRAME, "{} bytes", shown.len());
    }
    let written = String::from_utf8_lossy(bytes);
    let (title, text) = html::read(&written, &url());
    assert!(text.len() <= html::MOST_TEXT && title.is_none_or(|title| title.len() <= written.len() * 3));
    // Text that looks like a link may be none; what the reader makes of a tag always is one.
    if !written.contains(['[', ']', '(', ')', '&']) {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(link.parse::<WebUrl>().is_ok_and(|url| url.to_string() == link), "{link:?}");
        }
    }
    let line = html::line(&written, &url());
    assert!(!line.contains(['\n', '\t', '\r']) && !line.contains("  "), "{line:?}");
}

fn url() -> WebUrl {
    "https://a.example/docs/page".parse().expect("a URL of ours")
}

/// What is written around a page's text, its title included.
const FRAME: usize = 2048;
