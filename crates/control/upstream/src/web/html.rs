//! HTML as text: what a reader would see, its headings, lists and links kept, scripts and styles left out. Takes any bytes
//! for HTML, in time that grows with their number alone.

use std::borrow::Cow;

use postern_policy::web::WebUrl;

mod entities;

/// The longest text that is made of a page, in bytes.
pub(super) const MOST_TEXT: usize = 4 << 20;
/// How many of its links lead anywhere.
const MOST_REFERENCES: usize = 20_000;
/// Where a page says how it is written.
const CHARSET_WITHIN: usize = 2048;
/// Whose content is no text that anybody reads.
const RAW: [&str; 6] = ["script", "style", "iframe", "noembed", "noframes", "xmp"];
/// What is left out with everything in it.
const HIDDEN: [&str; 6] = ["template", "svg", "math", "object", "canvas", "select"];

/// The charset that a page names in its beginning.
pub(super) fn charset(bytes: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(CHARSET_WITHIN)]).to_ascii_lowercase();
    let after = &head[head.find("charset=")? + "charset=".len()..];
    let name: String = after
        .trim_start_matches(['"', '\''])
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .collect();
    (!name.is_empty()).then_some(name)
}

/// The title and the text of a page, which is cut where it would be longer than [`MOST_TEXT`].
pub(super) fn read(html: &str, url: &WebUrl) -> (Option<String>, String) {
    let mut reader = Reader::new(url);
    reader.read(html);
    reader.end_link();
    let title = reader.title.map(|title| title.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut text = reader.out;
    text.truncate(text.floor_char_boundary(MOST_TEXT));
    (title.filter(|title| !title.is_empty()), text)
}

/// The text of a piece of HTML on one line.
pub(super) fn line(html: &str, url: &WebUrl) -> String {
    read(html, url).1.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Reader {
    base: WebUrl,
    out: String,
    title: Option<String>,
    /// How many line ends the next text begins with.
    breaks: usize,
    /// Whether a space stands before the next text.
    space: bool,
    /// How deep in `pre` it is.
    verbatim: usize,
    /// How deep in elements that are left out.
    hidden: usize,
    /// Where the text of the open link begins, and where it leads.
    link: Option<(usize, String)>,
    /// How many references are still resolved.
    references: usize,
}

/// A tag: its name in lower case and what stands behind it.
struct Tag<'a> {
    name: String,
    is_end: bool,
    attributes: &'a str,
}

impl Reader {
    fn new(url: &WebUrl) -> Self {
        let (base, out) = (url.clone(), String::new());
        let references = MOST_REFERENCES;
        Self { base, out, title: None, breaks: 0, space: false, verbatim: 0, hidden: 0, link: None, references }
    }

    fn read(&mut self, html: &str) {
        let mut rest = html;
        while let Some(at) = rest.find('<') {
            self.text(&rest[..at]);
            if self.out.len() > MOST_TEXT {
                return;
            }
            let after = &rest[at + 1..];
            rest = match after.as_bytes().first() {
                Some(b'!') if after.starts_with("!--") => behind(&after[3..], "-->"),
                Some(b'!' | b'?') => behind(after, ">"),
                Some(b'/') if after[1..].starts_with(|c: char| c.is_ascii_alphabetic()) => self.tag(after),
                Some(first) if first.is_ascii_alphabetic() => self.tag(after),
                _ => {
                    self.text("<");
                    after
                }
            };
        }
        self.text(rest);
    }

    /// Takes a tag; returns what follows it.
    fn tag<'a>(&mut self, text: &'a str) -> &'a str {
        let (inside, rest) = split_tag(text);
        let tag = Tag::read(inside);
        if !tag.is_end && RAW.contains(&tag.name.as_str()) {
            return split_tag(behind_end(rest, &tag.name).1).1;
        }
        if !tag.is_end && tag.name == "title" {
            let (content, rest) = behind_end(rest, "title");
            if self.title.is_none() && self.hidden == 0 {
                self.title = Some(entities::decoded(content).into_owned());
            }
            return split_tag(rest).1;
        }
        if HIDDEN.contains(&tag.name.as_str()) {
            let is_alone = inside.ends_with('/');
            match tag.is_end {
                true => self.hidden = self.hidden.saturating_sub(1),
                false => self.hidden += usize::from(!is_alone),
            }
        } else if self.hidden == 0 {
            self.element(&tag);
        }
        rest
    }

    fn element(&mut self, tag: &Tag<'_>) {
        match (tag.name.as_str(), tag.is_end) {
            ("br", _) => self.breaks = (self.breaks + 1).min(2),
            ("base", false) => {
                if let Some(base) = tag.attribute("href").and_then(|href| self.resolved(&href)) {
                    self.base = base;
                }
            }
            ("a", false) => self.begin_link(tag),
            ("a", true) => self.end_link(),
            ("img", false) => {
                if let Some(alt) = tag.attribute("alt").filter(|alt| !alt.trim().is_empty()) {
                    self.words(&format!("[image: {}]", alt.trim()));
                }
            }
            ("pre", is_end) => {
                self.block();
                self.verbatim = if is_end { self.verbatim.saturating_sub(1) } else { self.verbatim + 1 };
            }
            ("li", false) => {
                self.line();
                self.words("- ");
            }
            ("td" | "th", true) => self.words(" | "),
            ("h1" | "h2" | "h3" | "h4" | "h5" | "h6", false) => {
                self.block();
                let level = usize::from(tag.name.as_bytes()[1] - b'0');
                self.words(&format!("{} ", "#".repeat(level)));
            }
            ("tr" | "dt" | "dd" | "option" | "div" | "li" | "caption" | "label", _) => self.line(),
            (name, _) if is_block(name) => self.block(),
            _ => {}
        }
    }

    fn begin_link(&mut self, tag: &Tag<'_>) {
        self.end_link();
        // Within the page itself it leads nowhere.
        let href = tag.attribute("href").filter(|href| !href.trim_start().starts_with('#'));
        let Some(url) = href.and_then(|href| self.resolved(&href)) else { return };
        self.flush();
        self.out.push('[');
        self.link = Some((self.out.len(), url.to_string()));
    }

    /// Where a reference leads; nowhere once there were too many: each may cost as much as the longest URL.
    fn resolved(&mut self, reference: &str) -> Option<WebUrl> {
        self.references = self.references.checked_sub(1)?;
        self.base.join(reference).ok()
    }

    fn end_link(&mut self) {
        let Some((begin, url)) = self.link.take() else { return };
        if self.out[begin..].trim().is_empty() {
            self.out.truncate(begin - 1);
            return;
        }
        self.out.push_str(&format!("]({url})"));
    }

    fn line(&mut self) {
        self.breaks = self.breaks.max(1);
    }

    fn block(&mut self) {
        self.breaks = 2;
    }

    fn text(&mut self, text: &str) {
        if text.is_empty() || self.hidden > 0 {
            return;
        }
        let text = entities::decoded(text);
        if self.verbatim > 0 {
            self.flush();
            self.out.push_str(&text);
        } else {
            self.words(&text);
        }
    }

    /// Adds text whose white space only separates.
    fn words(&mut self, text: &str) {
        for (index, word) in text.split(is_space).enumerate() {
            self.space |= index > 0;
            if !word.is_empty() {
                self.flush();
                self.out.push_str(word);
            }
        }
    }

    /// Writes what separates the next text from what is there.
    fn flush(&mut self) {
        if !self.out.is_empty() {
            match (self.breaks, self.space) {
                (0, true) => self.out.push(' '),
                (0, false) => {}
                (breaks, _) => {
                    self.out.truncate(self.out.trim_end_matches(' ').len());
                    self.out.push_str(&"\n\n"[..breaks.min(2)]);
                }
            }
        }
        (self.breaks, self.space) = (0, false);
    }
}

impl<'a> Tag<'a> {
    fn read(inside: &'a str) -> Self {
        let (is_end, inside) = inside.strip_prefix('/').map_or((false, inside), |inside| (true, inside));
        let end = inside.find(|c: char| is_space(c) || c == '/').unwrap_or(inside.len());
        Self { name: inside[..end].to_ascii_lowercase(), is_end, attributes: &inside[end..] }
    }

    /// The first attribute of this name.
    fn attribute(&self, name: &str) -> Option<Cow<'a, str>> {
        let mut rest = self.attributes;
        loop {
            rest = rest.trim_start_matches(|c: char| is_space(c) || c == '/');
            // An equals sign where a name should begin belongs to the name.
            let first = rest.chars().next()?.len_utf8();
            let end = rest[first..].find(|c: char| is_space(c) || matches!(c, '=' | '/'));
            let (found, after) = rest.split_at(end.map_or(rest.len(), |end| first + end));
            let after = after.trim_start_matches(is_space);
            let (value, after) = match after.strip_prefix('=') {
                Some(after) => value(after.trim_start_matches(is_space)),
                None => ("", after),
            };
            if found.eq_ignore_ascii_case(name) {
                return Some(entities::decoded(value));
            }
            rest = after;
        }
    }
}

fn value(text: &str) -> (&str, &str) {
    for quote in ['"', '\''] {
        if let Some(text) = text.strip_prefix(quote) {
            return text.split_once(quote).unwrap_or((text, ""));
        }
    }
    text.split_at(text.find(is_space).unwrap_or(text.len()))
}

/// The inside of a tag that began, and what follows it: a `>` in quotes does not end it.
fn split_tag(text: &str) -> (&str, &str) {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return (&text[..at], &text[at + 1..]),
            // Only behind an equals sign does a quote begin a value.
            (None, '"' | '\'') if before == '=' => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
        before = if is_space(c) && before == '=' { '=' } else { c };
    }
    (text, "")
}

/// What stands before the end tag of this name, and the end tag with what follows.
fn behind_end<'a>(text: &'a str, name: &str) -> (&'a str, &'a str) {
    let mut from = 0;
    while let Some(at) = text[from..].find("</") {
        let begin = from + at;
        let after = &text[begin + 2..];
        // The length of a name need not end with a character of what stands there.
        let behind_name = after.split_at_checked(name.len()).filter(|(found, _)| found.eq_ignore_ascii_case(name));
        let ends = |rest: &str| rest.chars().next().is_none_or(|c| is_space(c) || matches!(c, '>' | '/'));
        if behind_name.is_some_and(|(_, rest)| ends(rest)) {
            return (&text[..begin], after);
        }
        from = begin + 2;
    }
    (text, "")
}

fn behind<'a>(text: &'a str, end: &str) -> &'a str {
    text.split_once(end).map_or("", |(_, rest)| rest)
}

fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{a0}'
}

fn is_block(name: &str) -> bool {
    matches!(
        name,
        "p" | "section"
            | "article"
            | "header"
            | "footer"
            | "main"
            | "nav"
            | "aside"
            | "ul"
            | "ol"
            | "dl"
            | "table"
            | "blockquote"
            | "form"
            | "fieldset"
            | "figure"
            | "figcaption"
            | "details"
            | "summary"
            | "address"
            | "hr"
            | "h1"
            | "h2"
            | "h3"
            | "h4"
            | "h5"
            | "h6"
    )
}

#[cfg(test)]
mod tests;
