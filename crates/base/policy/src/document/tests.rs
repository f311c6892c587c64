use super::*;

fn errors(text: &str) -> Vec<String> {
    Document::parse("p.toml", text).map(|_| ()).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn text_that_is_not_toml_is_refused_with_each_place() {
    let found = errors("config = 1\na = \nb = ]\n");
    assert!(found.len() >= 2, "{found:?}");
    assert!(found[0].starts_with("p.toml:2:"), "{found:?}");
    assert!(found.iter().any(|error| error.starts_with("p.toml:3:")), "{found:?}");
}

#[test]
fn the_format_number_is_asked_for_first() {
    assert_eq!(errors(""), ["p.toml:1:1: the file must begin with config = 1"]);
    assert_eq!(errors("config = 2"), ["p.toml:1:10: config = 2 is not a format this build reads; it reads config = 1"]);
    assert_eq!(errors("config = \"1\"").len(), 1);
}

#[test]
fn columns_count_characters() {
    let document = Document::parse("p.toml", "config = 1\n[m]\n\"ä\" = \"ü\"\nb = { \"ö\" = 1, c = 2 }\n").unwrap();
    let reader = document.reader();
    let mut root = reader.root();
    let mut m = root.table("m").unwrap();
    assert_eq!(m.string("ä").unwrap().value, "ü");
    let mut b = m.table("b").unwrap();
    b.leave("ö");
    drop(b);
    drop(m);
    drop(root);
    let found = reader.finish();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].line, found[0].column, found[0].message.as_str()), (4, 16, "unknown key: c in [m.b]"));
}

#[test]
fn a_section_reads_what_it_asks_for_and_records_the_rest() {
    let text = "config = 1\n[model]\nurl = \"https://m.example\"\nsize = 3\nlist = [1, \"x\"]\nfloat = 1\nextra = true\nlater = 1\n[other]\n";
    let document = Document::parse("p.toml", text).unwrap();
    let reader = document.reader();
    let mut root = reader.root();
    {
        let mut model = root.table("model").unwrap();
        assert_eq!(model.parsed::<crate::Endpoint>("url").unwrap().value.to_string(), "https://m.example");
        assert!(model.bounded("size", 4..=5).is_none());
        assert_eq!(model.strings("list").unwrap().len(), 1);
        assert_eq!(model.number("float").unwrap().value, 1.0);
        assert_eq!(model.boolean("absent"), None);
        let key = model.string("key");
        assert!(model.required("key", key).is_none());
        model.not_in_this_build(&["later"]);
    }
    drop(root);
    let messages: Vec<String> =
        reader.finish().iter().map(|error| format!("{}:{} {}", error.line, error.column, error.message)).collect();
    assert_eq!(
        messages,
        [
            "2:2 missing key: key in [model]",
            "4:8 size must be from 4 to 5",
            "5:9 list must be a string, not a whole number",
            "7:1 unknown key: extra in [model]",
            "8:1 not in this build: later",
            "9:2 unknown key: other",
        ]
    );
}
