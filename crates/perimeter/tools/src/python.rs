//! The few places where the reference toolset's texts show that it is Python: `repr` of a string, and its names for system errors.

use std::fmt::Write as _;
use std::io;

/// `repr(text)` for a `str`.
pub(crate) fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for character in text.chars() {
        push_escaped(&mut out, character, quote);
    }
    out.push(quote);
    out
}

fn push_escaped(out: &mut String, character: char, quote: char) {
    let code = u32::from(character);
    match character {
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if c == quote => {
            out.push('\\');
            out.push(c);
        }
        c if code < 0x20 || (0x7f..=0xa0).contains(&code) || code == 0xad => write_escape(out, c, "\\x", 2),
        c if !is_printable(c) && code < 0x10000 => write_escape(out, c, "\\u", 4),
        c if !is_printable(c) => write_escape(out, c, "\\U", 8),
        c => out.push(c),
    }
}

fn write_escape(out: &mut String, character: char, prefix: &str, width: usize) {
    let _ = write!(out, "{prefix}{:0width$x}", u32::from(character));
}

/// Python calls separators, formats and private-use characters unprintable; the ones that matter for a terminal or a log are listed.
fn is_printable(character: char) -> bool {
    !matches!(u32::from(character),
        0x200b..=0x200f | 0x2028..=0x202f | 0x205f..=0x206f | 0x1680 | 0x2000..=0x200a | 0x3000 | 0xfeff | 0xfff9..=0xfffb | 0xe000..=0xf8ff | 0xe0000..=0x10ffff)
}

/// The toolset's wording for a system error: the same on every host, and never a path of the runner's.
pub(crate) fn reason(error: &io::Error) -> String {
    use rustix::io::Errno;
    let Some(number) = error.raw_os_error() else { return "i/o error".to_owned() };
    match Errno::from_raw_os_error(number) {
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::NOTDIR => "not a directory".to_owned(),
        Errno::ISDIR => "is a directory".to_owned(),
        Errno::ACCESS | Errno::PERM => "permission denied".to_owned(),
        Errno::EXIST => "file already exists".to_owned(),
        Errno::LOOP => "too many levels of symbolic links".to_owned(),
        _ => without_number(&error.to_string()),
    }
}

fn without_number(text: &str) -> String {
    text.split(" (os error").next().unwrap_or(text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_quoted_as_python_quotes_it() {
        for (text, expected) in [
            ("plain", "'plain'"),
            ("it's", "\"it's\""),
            ("both ' and \"", "'both \\' and \"'"),
            ("tab\tnew\nline\\", "'tab\\tnew\\nline\\\\'"),
            ("\u{0}\u{1f}\u{7f}\u{a0}", "'\\x00\\x1f\\x7f\\xa0'"),
            ("é漢", "'é漢'"),
            ("\u{202e}", "'\\u202e'"),
        ] {
            assert_eq!(repr(text), expected);
        }
    }

    #[test]
    fn an_unlisted_error_is_the_systems_word_in_lower_case() {
        assert_eq!(reason(&io::Error::from_raw_os_error(28)), "no space left on device");
        assert_eq!(reason(&io::Error::from_raw_os_error(36)), "file name too long");
    }
}
