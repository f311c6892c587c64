use postern_secret::Secret;

use super::*;

fn keys(text: &str) -> Result<EventKeys, BadEventKeys> {
    EventKeys::parse(&Secret::new(text.as_bytes().to_vec()))
}

fn key(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn cipher(text: &str) -> Cipher {
    Cipher::new(Some(keys(text).unwrap()))
}

const HERE: Cell<'static> = Cell { column: "table.column", row: &["sesn_1", "sevt_1"] };

#[test]
fn what_is_sealed_opens_in_its_place_and_nowhere_else() {
    let cipher = cipher(&key('a'));
    let stored = cipher.seal("what was said".into(), HERE).unwrap();
    assert!(!stored.contains("said"));
    assert_eq!(cipher.open(stored.clone(), HERE).unwrap(), "what was said");
    let elsewhere = [
        Cell { column: "table.other", ..HERE },
        Cell { row: &["sesn_2", "sevt_1"], ..HERE },
        Cell { row: &["sesn_1", "sevt_2"], ..HERE },
        Cell { row: &["sesn_1"], ..HERE },
        // The same letters, cut otherwise.
        Cell { row: &["sesn_1s", "evt_1"], ..HERE },
    ];
    for cell in elsewhere {
        assert!(matches!(cipher.open(stored.clone(), cell), Err(StoreError::Corrupt { .. })), "{cell:?}");
    }
}

#[test]
fn no_letter_of_it_can_be_changed() {
    let cipher = cipher(&key('a'));
    let stored = cipher.seal("said".into(), HERE).unwrap();
    for at in PREFIX.len()..stored.len() {
        let mut spoiled = stored.clone().into_bytes();
        spoiled[at] = if spoiled[at] == b'0' { b'1' } else { b'0' };
        let spoiled = String::from_utf8(spoiled).unwrap();
        assert!(cipher.open(spoiled, HERE).is_err(), "at {at}");
        assert!(cipher.open(stored[..at].to_owned(), HERE).is_err(), "cut at {at}");
    }
}

#[test]
fn equal_texts_are_stored_differently() {
    let cipher = cipher(&key('a'));
    assert_ne!(cipher.seal("said".into(), HERE).unwrap(), cipher.seal("said".into(), HERE).unwrap());
}

#[test]
fn the_first_key_seals_and_every_key_opens() {
    let before = cipher(&key('a')).seal("before".into(), HERE).unwrap();
    let rotated = cipher(&format!("# new\n{}\n\n# old\n{}\n", key('b'), key('a')));
    let after = rotated.seal("after".into(), HERE).unwrap();
    assert_eq!(rotated.open(before.clone(), HERE).unwrap(), "before");
    assert_eq!(cipher(&key('b')).open(after, HERE).unwrap(), "after");
    assert!(cipher(&key('b')).open(before, HERE).is_err());
}

#[test]
fn without_keys_text_is_stored_as_it_is_and_sealed_text_does_not_open() {
    let none = Cipher::default();
    assert_eq!(none.seal("{}".into(), HERE).unwrap(), "{}");
    assert_eq!(cipher(&key('a')).open("{}".into(), HERE).unwrap(), "{}");
    let stored = cipher(&key('a')).seal("{}".into(), HERE).unwrap();
    assert!(none.open(stored, HERE).is_err());
}

#[test]
fn a_key_file_holds_keys_and_nothing_else() {
    let short = "a".repeat(63);
    let letter = format!("{}g", "a".repeat(63));
    let cases = [
        (String::new(), BadEventKeys::Count),
        ("# nothing\n".into(), BadEventKeys::Count),
        (format!("{}\n", key('a')).repeat(MOST_KEYS + 1), BadEventKeys::Count),
        (short, BadEventKeys::Line(1)),
        (format!("{}\n{letter}", key('a')), BadEventKeys::Line(2)),
        ("é".repeat(32), BadEventKeys::Line(1)),
    ];
    for (text, expected) in cases {
        assert_eq!(keys(&text).map(|_| ()), Err(expected), "{text}");
    }
    assert_eq!(keys(&format!(" {} \r\n", key('A'))).unwrap().ids().count(), 1);
}

#[test]
fn keys_are_never_printed() {
    let shown = format!("{:?}", keys(&key('a')).unwrap());
    assert!(!shown.contains(&"a".repeat(17)), "{shown}");
}
