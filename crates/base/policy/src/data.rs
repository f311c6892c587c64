//! Reading the reviewed data files: lines of columns, the last one being the reason; `#` begins a comment line.

/// The lines that say something.
pub(crate) fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The first columns and the reason that follows them.
pub(crate) fn columns<const N: usize>(line: &'static str) -> Option<([&'static str; N], &'static str)> {
    let mut rest = line;
    let mut columns = [""; N];
    for column in &mut columns {
        let (word, after) = rest.split_once(char::is_whitespace)?;
        *column = word;
        rest = after.trim_start();
    }
    (!rest.is_empty()).then_some((columns, rest))
}
