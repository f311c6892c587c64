//! What a skill says of itself: `name` and `description` in the YAML that its instructions begin with.
//!
//! Read as events, so nothing is built of what a stranger wrote: anchors, aliases and tags are refused, and what else stands there is passed over.

use postern_model::skill;
use saphyr_parser::{Event, Parser};

/// The longest front matter, in bytes.
const MAX_BYTES: usize = 16 * 1024;
/// The deepest value in it.
const MAX_DEPTH: usize = 16;

/// What instructions say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// The skill's name, not yet checked.
    pub(super) name: Option<String>,
    /// When to use it.
    pub(super) description: String,
}

/// Reads the front matter of instructions.
///
/// # Errors
/// What is wrong with it, and how it should be.
pub(super) fn read(instructions: &[u8]) -> Result<Said, String> {
    let text = std::str::from_utf8(instructions).map_err(|_| "it is not UTF-8".to_owned())?;
    let (mut name, mut description) = (None, None);
    for (key, value) in entries(matter(text)?)? {
        let place = match key.as_str() {
            "name" => &mut name,
            "description" => &mut description,
            _ => continue,
        };
        *place = Some(value.ok_or_else(|| format!("`{key}` must be a text"))?);
    }
    let description = description.ok_or_else(|| "its front matter has no `description`".to_owned())?;
    Ok(Said { name, description: skill::description(&description).map_err(|why| format!("`description` {why}"))? })
}

/// The lines between the first line, which is `---`, and the next one that is.
fn matter(text: &str) -> Result<&str, String> {
    let missing =
        || "it must begin with front matter: a line `---`, `name: ...` and `description: ...`, a line `---`".to_owned();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (first, rest) = text.split_once('\n').ok_or_else(missing)?;
    if first.trim_end() != "---" {
        return Err(missing());
    }
    let mut length = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Ok(&rest[..length]);
        }
        length += line.len();
        if length > MAX_BYTES {
            return Err(format!("its front matter is longer than {} KiB, or does not end", MAX_BYTES / 1024));
        }
    }
    Err(missing())
}

/// The entries of the one mapping that the text is; of a value that is not a plain text, only that it is there.
fn entries(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let mut entries: Vec<(String, Option<String>)> = Vec::new();
    let (mut key, mut depth, mut is_over) = (None, 0_usize, false);
    for event in Parser::new_from_str(text) {
        let (event, _) =
            event.map_err(|error| format!("its front matter is not YAML: {}", bounded(&error.to_string())))?;
        check(&event)?;
        match event {
            Event::MappingStart(..) if depth == 0 && !is_over => depth = 1,
            Event::MappingStart(..) | Event::SequenceStart(..) if depth > 0 => {
                if depth == 1 && key.is_none() {
                    return Err("its front matter has a key that is not a text".to_owned());
                }
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(format!("its front matter is nested deeper than {MAX_DEPTH} levels"));
                }
            }
            Event::MappingEnd | Event::SequenceEnd => {
                depth -= 1;
                is_over = depth == 0;
                if depth == 1 {
                    entries.extend(key.take().map(|key| (key, None)));
                }
            }
            Event::Scalar(value, ..) if depth == 1 => match key.take() {
                Some(key) => entries.push((key, Some(value.into_owned()))),
                None if entries.iter().any(|(other, _)| *other == value) => {
                    return Err(format!("its front matter has `{}` twice", bounded(&value)));
                }
                None => key = Some(value.into_owned()),
            },
            Event::Scalar(..) if depth > 1 => {}
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            Event::Scalar(..) | Event::MappingStart(..) | Event::SequenceStart(..) | Event::Alias(_) => {
                return Err("its front matter is not a list of `key: value`".to_owned());
            }
        }
    }
    Ok(entries)
}

/// Refuses what makes one text mean more than it shows.
fn check(event: &Event<'_>) -> Result<(), String> {
    match event {
        Event::Alias(_) => Err("its front matter has an alias; write the value out".to_owned()),
        Event::Scalar(_, _, anchor, tag) | Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag)
            if *anchor != 0 || tag.is_some() =>
        {
            Err("its front matter has an anchor or a tag; leave it out".to_owned())
        }
        _ => Ok(()),
    }
}

fn bounded(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<(Option<String>, String), String> {
        read(text.as_bytes()).map(|said| (said.name, said.description))
    }

    #[test]
    fn name_and_description_are_read_in_every_spelling_of_yaml() {
        for text in [
            "---\nname: pdf\ndescription: Fills forms.\n---\nbody",
            "\u{feff}---\r\nname: pdf\r\ndescription: Fills forms.\r\n---\r\n",
            "---\nname: \"pdf\"\ndescription: 'Fills forms.'\nlicense: MIT\n---",
            "---\ndescription: >-\n  Fills\n  forms.\nname: pdf\nmetadata:\n  name: other\n  tags: [a, {b: c}]\nallowed-tools:\n- read\n---\n",
            "---\n{name: pdf, description: Fills forms.}\n---\n",
        ] {
            assert_eq!(said(text), Ok((Some("pdf".to_owned()), "Fills forms.".to_owned())), "{text:?}");
        }
        assert_eq!(said("---\ndescription: d\n---\n"), Ok((None, "d".to_owned())));
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        let long = format!("---\ndescription: d\nx: {}\n---\n", "x".repeat(MAX_BYTES));
        let deep = format!("---\ndescription: d\nx: {}{}\n---\n", "[".repeat(40), "]".repeat(40));
        for (text, expected) in [
            ("", "must begin with front matter"),
            ("# PDF\n", "must begin with front matter"),
            ("---\nname: pdf\n", "must begin with front matter"),
            ("---\n---\n", "no `description`"),
            ("---\nname: pdf\n---\n", "no `description`"),
            ("---\ndescription:\n---\n", "`description` must have 1 to 1024"),
            ("---\ndescription: [a]\n---\n", "`description` must be a text"),
            ("---\ndescription: {a: b}\n---\n", "`description` must be a text"),
            ("---\n- description: d\n---\n", "not a list of `key: value`"),
            ("---\ndescription\n---\n", "not a list of `key: value`"),
            ("---\n{description: d}\n...\n{description: e}\n---\n", "not a list of `key: value`"),
            ("---\ndescription: d\ndescription: e\n---\n", "has `description` twice"),
            ("---\na: &x d\ndescription: *x\n---\n", "anchor or a tag"),
            ("---\ndescription: *x\n---\n", "not YAML"),
            ("---\ndescription: !!str d\n---\n", "anchor or a tag"),
            ("---\n? [a]\n: b\n---\n", "key that is not a text"),
            ("---\ndescription: \"d\n---\n", "not YAML"),
            (&long, "longer than 16 KiB"),
            (&deep, "deeper than 16 levels"),
        ] {
            let why = said(text).unwrap_err();
            assert!(why.contains(expected), "{text:?} should be refused for {expected:?}: {why}");
        }
        assert!(read(b"---\ndescription: \xff\n---\n").unwrap_err().contains("not UTF-8"));
    }
}
