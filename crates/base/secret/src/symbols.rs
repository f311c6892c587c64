//! How one character of a text may be written: as it is, percent-encoded, as a JSON escape, as an HTML entity. Reads
//! all readings of what stands at a position, and writes a replacement in the same form and length.

/// In which form one character was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Raw,
    /// `+` for a space, as forms have it.
    Plus,
    Percent,
    JsonShort,
    JsonUnicode,
    HtmlDecimal,
    HtmlHex,
    HtmlNamed,
    /// White space between characters of wrapped base64.
    Skipped,
}

/// One reading: `length` bytes of input mean `bytes()`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) form: Form,
    pub(crate) length: usize,
    decoded: [u8; 4],
    decoded_length: u8,
}

/// All readings at one position: at most itself, an escape, and an escape's Latin-1 sense.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    list: [Option<Reading>; 3],
    /// More input could make, or lengthen, a reading.
    pub(crate) open: bool,
}

impl Reading {
    fn new(form: Form, length: usize, bytes: &[u8]) -> Self {
        let mut decoded = [0; 4];
        decoded[..bytes.len()].copy_from_slice(bytes);
        let decoded_length = u8::try_from(bytes.len()).expect("a character has at most four bytes");
        Self { form, length, decoded, decoded_length }
    }

    /// The same, as white space that is passed over.
    pub(crate) fn skipped(self) -> Self {
        Self { form: Form::Skipped, ..self }
    }

    /// What it means.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.decoded[..usize::from(self.decoded_length)]
    }
}

impl Readings {
    /// The readings at the start of `input`, which is not empty; escapes only where the text may have them.
    pub(crate) fn of(input: &[u8], escapes: bool) -> Self {
        let mut readings = Self::default();
        readings.add(Form::Raw, 1, &input[..1]);
        if escapes {
            match input[0] {
                b'+' => readings.add(Form::Plus, 1, b" "),
                b'%' => readings.percent(&input[1..]),
                b'\\' => readings.json(&input[1..]),
                b'&' => readings.html(&input[1..]),
                _ => {}
            }
        }
        readings
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Reading> {
        self.list.iter().flatten()
    }

    fn add(&mut self, form: Form, length: usize, bytes: &[u8]) {
        if let Some(free) = self.list.iter_mut().find(|reading| reading.is_none()) {
            *free = Some(Reading::new(form, length, bytes));
        }
    }

    fn percent(&mut self, rest: &[u8]) {
        match hex_number(rest, 2) {
            Digits::Number(number) => self.add(Form::Percent, 3, &number.to_le_bytes()[..1]),
            Digits::Open => self.open = true,
            Digits::None => {}
        }
    }

    fn json(&mut self, rest: &[u8]) {
        match rest.first() {
            None => self.open = true,
            Some(b'u') => self.json_unicode(&rest[1..]),
            Some(letter) => {
                if let Some((_, byte)) = JSON_SHORT.iter().find(|(short, _)| short == letter) {
                    self.add(Form::JsonShort, 2, &[*byte]);
                }
            }
        }
    }

    fn json_unicode(&mut self, rest: &[u8]) {
        match hex_number(rest, 4) {
            Digits::Number(high @ 0xD800..0xDC00) => self.json_pair(high, &rest[4..]),
            Digits::Number(unit) => self.character(Form::JsonUnicode, 6, unit),
            Digits::Open => self.open = true,
            Digits::None => {}
        }
    }

    fn json_pair(&mut self, high: u32, rest: &[u8]) {
        if rest.len() < 2 {
            self.open = b"\\u".starts_with(rest);
        } else if let Some(digits) = rest.strip_prefix(b"\\u") {
            match hex_number(digits, 4) {
                Digits::Number(low @ 0xDC00..0xE000) => {
                    self.character(Form::JsonUnicode, 12, 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00));
                }
                Digits::Open => self.open = true,
                Digits::Number(_) | Digits::None => {}
            }
        }
    }

    fn html(&mut self, rest: &[u8]) {
        match rest {
            [] | [b'#'] | [b'#', b'x' | b'X'] => self.open = true,
            [b'#', b'x' | b'X', digits @ ..] => self.html_number(Form::HtmlHex, 3, digits, 16),
            [b'#', digits @ ..] => self.html_number(Form::HtmlDecimal, 2, digits, 10),
            name => self.html_name(name),
        }
    }

    /// Digits as far as they go, then a semicolon that browsers do without.
    fn html_number(&mut self, form: Form, before: usize, digits: &[u8], radix: u32) {
        let count = digits.iter().take_while(|digit| char::from(**digit).is_digit(radix)).count();
        if count > MOST_DIGITS {
            return;
        }
        let end = digits.get(count);
        if end.is_none() {
            self.open = true;
        }
        let text = std::str::from_utf8(&digits[..count]).unwrap_or_default();
        if let Ok(number) = u32::from_str_radix(text, radix) {
            self.character(form, before + count + usize::from(end == Some(&b';')), number);
        }
    }

    fn html_name(&mut self, rest: &[u8]) {
        let name = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).take(LONGEST_NAME + 1).count();
        if name == rest.len() && name <= LONGEST_NAME {
            self.open = true;
        } else if rest.get(name) == Some(&b';') {
            let known = HTML_NAMES.iter().find(|(text, _)| text.as_bytes().eq_ignore_ascii_case(&rest[..name]));
            if let Some((_, byte)) = known {
                self.add(Form::HtmlNamed, name + 2, &[*byte]);
            }
        }
    }

    /// A code point: its UTF-8, and for values that are no UTF-8 the single byte.
    fn character(&mut self, form: Form, length: usize, number: u32) {
        if let Some(character) = char::from_u32(number) {
            self.add(form, length, character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        if (0x80..0x100).contains(&number) {
            self.add(form, length, &number.to_le_bytes()[..1]);
        }
    }
}

enum Digits {
    Number(u32),
    Open,
    None,
}

/// Exactly `count` hexadecimal digits.
fn hex_number(input: &[u8], count: usize) -> Digits {
    let present = &input[..count.min(input.len())];
    if !present.iter().all(u8::is_ascii_hexdigit) {
        return Digits::None;
    }
    if present.len() < count {
        return Digits::Open;
    }
    let text = std::str::from_utf8(present).unwrap_or_default();
    u32::from_str_radix(text, 16).map_or(Digits::None, Digits::Number)
}

/// Writes `bytes` where `original` stood, in its form and exactly its length. Where the form has no room (a quote that
/// was `\"`, a character of several bytes), the bytes stand as they are and are filled up: the length of a body is
/// announced before it, so it must never change.
pub(crate) fn write(form: Form, original: &[u8], bytes: &[u8], output: &mut Vec<u8>) {
    let written = match (form, bytes) {
        (Form::Percent, [byte]) if is_lower_hex(original) => Some(format!("%{byte:02x}")),
        (Form::Percent, [byte]) => Some(format!("%{byte:02X}")),
        (Form::JsonUnicode, [byte]) if is_lower_hex(original) => Some(format!("\\u{byte:04x}")),
        (Form::JsonUnicode, [byte]) => Some(format!("\\u{byte:04X}")),
        (Form::HtmlHex, [byte]) => html(original, "&#x", |width| format!("{byte:0width$x}")),
        (Form::HtmlDecimal | Form::HtmlNamed, [byte]) => html(original, "&#", |width| format!("{byte:0width$}")),
        _ => None,
    };
    match written {
        Some(text) if text.len() == original.len() => output.extend_from_slice(text.as_bytes()),
        _ => {
            let end = output.len() + original.len();
            output.extend(bytes.iter().take(original.len()));
            output.resize(end, FILL);
        }
    }
}

/// The entity with leading zeros; without its semicolon where only that fits.
fn html(original: &[u8], lead: &str, digits: impl Fn(usize) -> String) -> Option<String> {
    let room = original.len().checked_sub(lead.len() + 1)?;
    let closed = format!("{lead}{};", digits(room));
    let fits = original.ends_with(b";") && closed.len() == original.len();
    Some(if fits { closed } else { format!("{lead}{}", digits(room + 1)) })
}

fn is_lower_hex(text: &[u8]) -> bool {
    text.iter().skip(2).any(|byte| matches!(byte, b'a'..=b'f'))
        || text.get(1).is_some_and(|byte| matches!(byte, b'a'..=b'f'))
}

/// JSON's escapes of one letter (RFC 8259, section 7).
pub(crate) const JSON_SHORT: [(u8, u8); 8] =
    [(b'"', b'"'), (b'\\', b'\\'), (b'/', b'/'), (b'b', 8), (b'f', 12), (b'n', 10), (b'r', 13), (b't', 9)];

/// HTML's names of ASCII characters (HTML standard, section 13.5).
pub(crate) const HTML_NAMES: [(&str, u8); 37] = [
    ("Tab", b'\t'),
    ("NewLine", b'\n'),
    ("excl", b'!'),
    ("quot", b'"'),
    ("num", b'#'),
    ("dollar", b'$'),
    ("percnt", b'%'),
    ("amp", b'&'),
    ("apos", b'\''),
    ("lpar", b'('),
    ("rpar", b')'),
    ("ast", b'*'),
    ("midast", b'*'),
    ("plus", b'+'),
    ("comma", b','),
    ("period", b'.'),
    ("sol", b'/'),
    ("colon", b':'),
    ("semi", b';'),
    ("lt", b'<'),
    ("equals", b'='),
    ("gt", b'>'),
    ("quest", b'?'),
    ("commat", b'@'),
    ("lsqb", b'['),
    ("lbrack", b'['),
    ("bsol", b'\\'),
    ("rsqb", b']'),
    ("rbrack", b']'),
    ("Hat", b'^'),
    ("lowbar", b'_'),
    ("grave", b'`'),
    ("lcub", b'{'),
    ("lbrace", b'{'),
    ("verbar", b'|'),
    ("rcub", b'}'),
    ("rbrace", b'}'),
];

const LONGEST_NAME: usize = 7;
/// More leading zeros than any library writes; a bound keeps the held-back tail of a stream short.
const MOST_DIGITS: usize = 10;
const FILL: u8 = b'0';
