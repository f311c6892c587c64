//! Secrets in query, path, JSON and form: put there whole and once, written so that nothing else is read of them, taken
//! out of everything that comes back, and put nowhere else.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use postern_audit::{Decision, Kind};

use super::{
    stand::{More, Seen, Stand, WAYS, Way, get, post},
    upstream::{Upstream, whole},
};
use crate::limits::Bounds;

/// Of characters that mean something in a query, a form and JSON.
const SECRET: &str = "s3cr3t+&=%\"\\; #Zq7Lw8Vb3N";
/// One that can stand in a path.
const BOT: &str = "110201543:AAHdqTcvCH1vGWJxfSeofSAs";

const PLACES: More = More { zone: places, secrets: &[("places", SECRET), ("bot", BOT)] };
const JSON: (&str, &str) = ("content-type", "application/json");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

fn places(upstream: &Upstream) -> String {
    let local = format!("connect = \"{}\"\naddresses = [\"127.0.0.0/8\"]\nca_file = \"ca.pem\"\n", upstream.https);
    format!(
        "[[zone.t.credential]]\nname = \"places\"\nsource = \"env:PLACES\"\n\
         inject = [{{ query = \"api_key\" }}, {{ json = \"/auth/token\" }}, {{ form = \"client_secret\" }}]\n\
         [[zone.t.credential]]\nname = \"bot\"\nsource = \"env:BOT\"\ninject = [{{ path = \"/bot{{secret}}/**\" }}]\n\
         [[zone.t.egress]]\nhost = \"places.test\"\ncredential = \"places\"\n{local}\
         [[zone.t.egress]]\nhost = \"places.test\"\npaths = [\"/*/**\"]\ncredential = \"bot\"\n{local}"
    )
}

async fn stand() -> Stand {
    Stand::with_more(Bounds::default(), PLACES).await
}

async fn send(stand: &Stand, way: Way, request: &[u8]) -> Seen {
    stand.send(way, "https", "places.test", 443, request).await
}

#[tokio::test]
async fn a_secret_goes_into_query_path_json_and_form_and_comes_back_as_its_placeholder() {
    let stand = stand().await;
    let (held, bot) = (stand.added["places"].clone(), stand.added["bot"].clone());
    let escaped = "s3cr3t%2B%26%3D%25%22%5C%3B%20%23Zq7Lw8Vb3N";
    let json = format!("{{\"big\": 1e400, \"auth\": {{\"token\": \"{held}\"}}}}");
    let form = format!("grant=x+y&client_secret={held}&z=%2B");
    let table: [(Vec<u8>, String, String); 4] = [
        (
            get("https", "places.test", 443, &format!("/v1/x?a=1&api_key={held}&b"), &[]),
            format!("GET /v1/x?a=1&api_key={escaped}&b HTTP/1.1"),
            String::new(),
        ),
        (
            get("https", "places.test", 443, &format!("/bot{bot}/getMe?x=1"), &[]),
            format!("GET /bot{BOT}/getMe?x=1 HTTP/1.1"),
            String::new(),
        ),
        (
            post("places.test", "/v1/x", &[JSON], json.as_bytes()),
            "POST /v1/x HTTP/1.1".to_owned(),
            "{\"big\": 1e400, \"auth\": {\"token\": \"s3cr3t+&=%\\\"\\\\; #Zq7Lw8Vb3N\"}}".to_owned(),
        ),
        (
            post("places.test", "/v1/x", &[FORM], form.as_bytes()),
            "POST /v1/x HTTP/1.1".to_owned(),
            format!("grant=x+y&client_secret={escaped}&z=%2B"),
        ),
    ];
    // An upstream that says back all it got: as a redirect, in a header of its own, and in an error page.
    stand.upstream.replies(|request| {
        let line = request.head.lines().next().unwrap_or_default();
        let target = line.split(' ').nth(1).unwrap_or_default();
        let said = [line.as_bytes(), b"\n", &request.body, b"\n", SECRET.as_bytes()].concat();
        vec![whole("302 Found", &[("location", target), ("x-echo", target)], &said)]
    });
    for way in WAYS {
        for (request, line, body) in &table {
            let from = stand.audit.records().len();
            let seen = send(&stand, way, request).await;
            assert_eq!(seen.status, 302, "{}", seen.text());
            let received = stand.upstream.received().pop().unwrap();
            assert_eq!(received.head.lines().next().unwrap(), line);
            assert_eq!(String::from_utf8(received.body.clone()).unwrap(), *body);
            if !body.is_empty() {
                assert_eq!(received.header("content-length"), Some(body.len().to_string()), "sent anew: {line}");
            }
            let all = format!("{}{}", seen.head, seen.text());
            for secret in [SECRET, escaped, BOT, "Zq7Lw8Vb3N", "AAHdqTcvCH1vGWJxfSeofSAs"] {
                assert!(!all.contains(secret), "{secret} in {all}");
            }
            if line.contains("bot") {
                assert_eq!(seen.header("location"), Some(format!("/bot{bot}/getMe?x=1")));
            }
            let record = stand.record(Kind::EgressRequest, from).unwrap();
            let destination = record.destination.as_ref().unwrap();
            assert_eq!(record.decision, Decision::Allow);
            assert!(!format!("{destination:?}").contains(&bot) && !format!("{destination:?}").contains(BOT));
        }
    }
}

async fn refused(stand: &Stand, way: Way, request: &[u8], row: &str) -> Seen {
    let from = stand.audit.records().len();
    let before = stand.upstream.received().len();
    let seen = send(stand, way, request).await;
    assert_eq!(seen.reason().as_deref(), Some("placeholder_wrong_location"), "{row}: {} {}", seen.head, seen.text());
    let alarm = stand.record(Kind::Alarm, from).unwrap_or_else(|| panic!("{row}: no alarm"));
    assert_eq!(alarm.reason.as_deref(), Some("placeholder_wrong_location"), "{row}");
    assert!(!format!("{alarm:?}").contains(&stand.added["places"]), "{row}");
    assert_eq!(stand.upstream.received().len(), before, "{row}: something left");
    seen
}

#[tokio::test]
async fn a_placeholder_beside_its_place_in_a_target_is_refused_and_alarmed() {
    let stand = stand().await;
    let (held, bot) = (stand.added["places"].clone(), stand.added["bot"].clone());
    let percent: String = held.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let last = format!("{}%{:02X}", &held[..held.len() - 1], held.as_bytes()[held.len() - 1]);
    let paths = [
        format!("/v1/x?api_key={percent}"),
        format!("/v1/x?api_key={last}"),
        format!("/v1/x?api_key={held}&api_key={held}"),
        format!("/v1/x?api_key={held}&api_key=x"),
        format!("/v1/x?api_key={held}&API_KEY=x"),
        format!("/v1/x?api_key={held}&api%5Fkey=x"),
        format!("/v1/x?api_key={held};a=b"),
        format!("/v1/x?a=b;api_key={held}"),
        format!("/v1/x?api_key=+{held}"),
        format!("/v1/x?api_key={held}%20"),
        format!("/v1/x?api_key=x{held}"),
        format!("/v1/x?api%5fkey={held}"),
        format!("/v1/x?api_key[]={held}"),
        format!("/v1/x?other={held}"),
        format!("/v1/x?{held}"),
        format!("/v1/x?{held}=1"),
        format!("/bot{held}/getMe"),
        format!("/bot{bot}x/getMe"),
        format!("/v1/bot{bot}/getMe"),
        format!("/{bot}/getMe"),
        format!("/bot{bot}/{bot}"),
        format!("/bot%70{}/getMe", &bot[1..]),
        format!("/v1/x?api_key={bot}"),
        format!("/bot{bot}/getMe?api_key={held}"),
    ];
    for way in WAYS {
        for path in &paths {
            refused(&stand, way, &get("https", "places.test", 443, path, &[]), path).await;
        }
    }
}

#[tokio::test]
async fn a_placeholder_beside_its_place_in_a_body_is_refused_and_alarmed() {
    let stand = stand().await;
    let held = stand.added["places"].clone();
    let utf16: String = held.chars().map(|character| format!("{character}\0")).collect();
    let unicode: String = held.chars().map(|character| format!("\\u{:04x}", u32::from(character))).collect();
    let percent: String = held.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
    let json = |text: &str| (JSON, text.replace("PH", &held));
    let form = |text: &str| (FORM, text.replace("PH", &held));
    let bodies = [
        json(r#"{"auth":{"token":"PH"},"note":"PH"}"#),
        json(r#"{"auth":{"token":"Bearer PH"}}"#),
        json(r#"{"auth":{"Token":"PH"}}"#),
        json(r#"{"auth":[{"token":"PH"}]}"#),
        json(r#"{"token":"PH"}"#),
        json(r#"{"auth":{"PH":"token"}}"#),
        json(r#"{"auth":{"token":"PH","token":"x"}}"#),
        json(r#"{"auth":{"token":"x"},"auth":{"token":"PH"}}"#),
        json(r#"{"auth":{"token":"PH"},"AUTH":{"token":"x"}}"#),
        json(&format!(r#"{{"auth":{{"token":"PH"}},"deep":{deep}}}"#)),
        json("\u{feff}{\"auth\":{\"token\":\"PH\"}}"),
        json(r#"{"auth":{"token":"PH"}} {}"#),
        json(r#"{"auth":{"token":"PH"}"#),
        json(r#"auth=1&client_secret=PH"#),
        json(&format!(r#"{{"auth":{{"token":"{unicode}"}}}}"#)),
        json(&format!("{{\0\"auth\":{{\"token\":\"{utf16}\"}}}}")),
        form("client_secret=PH&client_secret=PH"),
        form("client_secret=PH&client%5fsecret=x"),
        form("client_secret=PH;a=b"),
        form("client_secret=+PH"),
        form("client_secret=PH%0a"),
        form(&format!("client_secret={percent}")),
        form("note=PH"),
        form(r#"{"auth":{"token":"PH"}}"#),
        (
            ("content-type", "multipart/form-data; boundary=b"),
            form("--b\r\ncontent-disposition: form-data; name=\"client_secret\"\r\n\r\nPH\r\n--b--\r\n").1,
        ),
        (("content-type", "text/plain"), json(r#"{"auth":{"token":"PH"}}"#).1),
        (("content-type", "application/json; charset=utf-16le"), json(r#"{"auth":{"token":"PH"}}"#).1),
        (("x-none", "1"), form("client_secret=PH").1),
    ];
    for (header, body) in &bodies {
        let row = format!("{header:?} {body}");
        let seen =
            refused(&stand, Way::Redirect, &post("places.test", "/v1/x", &[*header], body.as_bytes()), &row).await;
        assert!(seen.text().contains("json /auth/token"), "{row}: {}", seen.text());
    }
    let two_types = [JSON, ("content-type", "text/plain")];
    let body = json(r#"{"auth":{"token":"PH"}}"#).1;
    refused(&stand, Way::Redirect, &post("places.test", "/v1/x", &two_types, body.as_bytes()), "two types").await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body.as_bytes()).unwrap();
    let request = post("places.test", "/v1/x", &[JSON, ("content-encoding", "gzip")], &encoder.finish().unwrap());
    refused(&stand, Way::Redirect, &request, "encoded").await;
}

#[tokio::test]
async fn a_body_too_long_to_be_read_whole_has_no_places_and_says_how_long_it_may_be() {
    let stand = stand().await;
    let held = stand.added["places"].clone();
    let sized = |filling: usize| {
        let body = format!("{{\"auth\":{{\"token\":\"{held}\"}},\"filling\":\"{}\"}}", "x".repeat(filling));
        (body.len(), post("places.test", "/v1/x", &[JSON], body.as_bytes()))
    };
    let around = sized(0).0;
    let (length, longest) = sized(postern_policy::location::BODY_BYTES - around);
    assert_eq!(length, postern_policy::location::BODY_BYTES);
    assert_eq!(send(&stand, Way::Redirect, &longest).await.status, 200);
    for filling in [1, 500_000] {
        let (_, request) = sized(postern_policy::location::BODY_BYTES - around + filling);
        let seen = refused(&stand, Way::Redirect, &request, "too long").await;
        assert!(seen.text().contains("at most 256 KiB"), "{}", seen.text());
    }
    // Without a placeholder in it any length goes through.
    let plain = vec![b' '; 1_000_000];
    assert_eq!(send(&stand, Way::Redirect, &post("places.test", "/v1/x", &[JSON], &plain)).await.status, 200);
    assert_eq!(stand.upstream.received().last().unwrap().body, plain);
}

#[tokio::test]
async fn a_secret_that_cannot_stand_at_its_place_is_not_sent() {
    let stand = stand().await;
    let bot = stand.added["bot"].clone();
    let mut unfit = "../".repeat(11);
    unfit.push_str("x".repeat(BOT.len() - unfit.len()).as_str());
    stand.custody.secrets.lock().unwrap().insert("bot".to_owned(), unfit);
    let seen = send(&stand, Way::Redirect, &get("https", "places.test", 443, &format!("/bot{bot}/getMe"), &[])).await;
    assert_eq!(seen.reason().as_deref(), Some("custody_denied"));
    assert!(seen.text().contains("cannot stand in a path"), "{}", seen.text());
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn foreign_keys_beside_ours_are_refused_in_query_and_form() {
    let stand = stand().await;
    let held = stand.added["places"].clone();
    let query = get("https", "places.test", 443, &format!("/v1/x?api_key={held}&access_token=attackers"), &[]);
    let form = post("places.test", "/v1/x", &[FORM], format!("client_secret={held}&access_token=attackers").as_bytes());
    for request in [query, form] {
        let seen = send(&stand, Way::Redirect, &request).await;
        assert_eq!(seen.reason().as_deref(), Some("foreign_credential"), "{}", seen.text());
    }
    assert!(stand.upstream.received().is_empty());
}
