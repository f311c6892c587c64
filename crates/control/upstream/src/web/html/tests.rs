//! Pages as they are and as they should not be.

use std::time::Duration;

use super::*;

fn url() -> WebUrl {
    "https://a.example/docs/page".parse().unwrap()
}

fn text(html: &str) -> String {
    read(html, &url()).1
}

#[test]
fn a_page_is_what_its_reader_sees() {
    let page = "<!DOCTYPE html><html><head><title> The\n page &amp; more </title><style>p { color: red }</style>\
        <script>var x = '<p>no</p>';</script></head><body><!-- no <p> --><h1>Head</h1><p>One <b>bold</b>\n word.</p>\
        <ul><li>first<li>second</ul><pre>a\n  b</pre><p>After<br>break</p><table><tr><th>x</th><th>y</th></tr>\
        <tr><td>1</td><td>2</td></tr></table></body></html>";
    let (title, text) = read(page, &url());
    assert_eq!(title.as_deref(), Some("The page & more"));
    assert_eq!(text, "# Head\n\nOne bold word.\n\n- first\n- second\n\na\n  b\n\nAfter\nbreak\n\nx | y |\n1 | 2 |");
}

#[test]
fn links_are_kept_with_where_they_lead() {
    for (html, expected) in [
        ("<a href=/x>X</a>", "[X](https://a.example/x)"),
        ("<a class='y' href = \"other?a=1&amp;b=2\">X</a>!", "[X](https://a.example/docs/other?a=1&b=2)!"),
        ("<A HREF='https://b.example/'><b>bold</b> x</A>", "[bold x](https://b.example/)"),
        ("<base href='https://b.example/y/'><a href=z>X</a>", "[X](https://b.example/y/z)"),
        ("<a href=/x></a>after", "after"),
        ("<a href=/x>one<a href=/y>two</a>", "[one](https://a.example/x)[two](https://a.example/y)"),
        ("<a href='javascript:alert(1)'>X</a>", "X"),
        ("<a href='data:text/html,x'>X</a>", "X"),
        ("<a href='#part'>X</a>", "X"),
        ("<a href='https://127.0.0.1/'>X</a>", "X"),
        ("<a name=x>X</a>", "X"),
        ("<a href=/x>open", "[open](https://a.example/x)"),
        ("<img alt='a picture' src=x>", "[image: a picture]"),
    ] {
        assert_eq!(text(html), expected, "{html}");
    }
}

#[test]
fn what_is_broken_or_hostile_is_read_without_harm() {
    for (html, expected) in [
        ("a < b and b > c", "a < b and b > c"),
        ("a <3 b", "a <3 b"),
        ("<p title='a > b'>x", "x"),
        ("<p title=\"it's > that\">x", "x"),
        ("<script>document.write('</p>')</script>x", "x"),
        ("<script>x</SCRIPT >y", "y"),
        ("<title>x</titl\u{e4}></title>y", "y"),
        ("<script></scrip\u{1f600}</\u{e4}</script>y", "y"),
        ("<script>x</scripty>z</script>y", "y"),
        ("<script>never closed", ""),
        ("<style>never closed", ""),
        ("<!-- never closed", ""),
        ("<p never closed", ""),
        ("a<!-- b --><!---->c", "ac"),
        ("<svg><text>no</text></svg>x", "x"),
        ("<svg/>x", "x"),
        ("<template><p>no</template>x", "x"),
        ("</template>x", "x"),
        ("<title>one</title><title>two</title>x", "x"),
        ("&lt;script&gt;", "<script>"),
        ("&#65;&#x42;&#xd800;&#0;&#99999999;", "AB\u{fffd}\u{fffd}\u{fffd}"),
        ("&nbsp;x&unknown;&&amp;amp;&auml;&euro;", "x&unknown;&&amp;\u{e4}\u{20ac}"),
        ("<a =href=x href=/y>z</a>", "[z](https://a.example/y)"),
        ("\u{1f600}<p>\u{e4}</p>\u{1f600}", "\u{1f600}\n\n\u{e4}\n\n\u{1f600}"),
        ("</", "</"),
        ("<", "<"),
        ("", ""),
    ] {
        assert_eq!(text(html), expected, "{html}");
    }
}

#[test]
fn a_page_that_wants_to_be_slow_is_not() {
    let many = 50_000;
    for piece in [
        "<",
        "<a",
        "<!--",
        "</",
        "<script>",
        "</script",
        "<a href='",
        "&",
        "<svg>",
        "<a href=x>",
        "<p a=\"",
        "</title",
        "<x =\"'",
        "<x a=b c=d e=f",
        "&#x41;",
        "<pre>  <br>",
        "<div>",
    ] {
        let html = format!("<base href='https://a.example/{}/'>{}", "d".repeat(1900), piece.repeat(many));
        let before = std::time::Instant::now();
        read(&html, &url());
        assert!(before.elapsed() < Duration::from_secs(20), "{piece}");
    }
}

#[test]
fn links_beyond_the_bound_are_text() {
    let page = "<a href=x>y</a>".repeat(MOST_REFERENCES + 1);
    let text = text(&page);
    assert_eq!(text.matches("](https://a.example/docs/x)").count(), MOST_REFERENCES);
    assert!(text.ends_with(")y"), "the last one is text alone");
}

#[test]
fn a_page_says_how_it_is_written() {
    for (html, expected) in [
        ("<meta charset=\"UTF-8\">", Some("utf-8")),
        ("<meta http-equiv=content-type content='text/html; charset=ISO-8859-1'>", Some("iso-8859-1")),
        ("<meta charset=>", None),
        ("<p>", None),
    ] {
        assert_eq!(charset(html.as_bytes()).as_deref(), expected, "{html}");
    }
}
