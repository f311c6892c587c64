use http::Request;

use super::*;

fn good() -> http::request::Builder {
    Request::get(wire::CONNECT_PATH)
        .header("host", "edge.example")
        .header("connection", "Upgrade")
        .header("upgrade", wire::PROTOCOL)
        .header("postern-lane", "bulk")
        .header("postern-connector", "c0ffee00c0ffee00")
}

fn verdict(request: http::request::Builder) -> Result<Knock, (u16, &'static str)> {
    read(&request.body(()).unwrap().into_parts().0).map_err(|refusal| (refusal.status.as_u16(), refusal.reason))
}

fn issued() -> TunnelToken {
    TunnelToken::derive(&postern_secret::Secret::new(vec![1; 32]), "tnl_1", 1)
}

#[allow(clippy::disallowed_methods, reason = "the test presents the token it issued")]
fn bearer(token: &TunnelToken) -> String {
    format!("Bearer {}", token.secret().expose())
}

fn with_token() -> http::request::Builder {
    good().header("authorization", bearer(&issued()))
}

#[test]
fn the_request_of_a_connector_is_read() {
    let token = issued();
    let knock = verdict(good().header("authorization", bearer(&token))).unwrap();
    assert_eq!(knock.lane, Lane::Bulk);
    assert_eq!(knock.connector, "c0ffee00c0ffee00");
    assert_eq!(knock.token, token.digest());
}

#[test]
fn what_is_no_token_is_refused_as_none() {
    let missing = Err((401, reason::TOKEN_MISSING));
    assert_eq!(verdict(good()), missing);
    let good_one = bearer(&issued());
    let bad = [
        String::new(),
        "Bearer".to_owned(),
        "Bearer pst_tun_".to_owned(),
        "Bearer pst_tun_abc".to_owned(),
        good_one.to_lowercase(),
        good_one.replace("Bearer", "bearer"),
        good_one.replace("Bearer", "Basic"),
        good_one.replace("Bearer ", "Bearer  "),
        good_one.replace("pst_tun_", "pst_env_"),
        format!("{good_one} x"),
        format!("{good_one}{}", "a".repeat(200)),
        good_one[..good_one.len() - 1].to_owned(),
    ];
    for value in bad {
        assert_eq!(verdict(good().header("authorization", &value)), missing, "{value}");
    }
    assert_eq!(verdict(with_token().header("authorization", "Bearer pst_tun_abc")), missing, "two tokens");
}

#[test]
fn anything_that_could_be_read_in_two_ways_is_refused() {
    let extra = [
        ("content-length", "0"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("expect", "100-continue"),
        ("te", "trailers"),
        ("host", "other.example"),
        ("upgrade", "h2c"),
        ("connection", "keep-alive"),
        ("postern-lane", "interactive"),
        ("postern-connector", "c0ffee00c0ffee01"),
        ("postern_lane", "bulk"),
        ("trailer", "x"),
    ];
    for (name, value) in extra {
        assert_eq!(verdict(with_token().header(name, value)), Err((400, reason::REQUEST_MALFORMED)), "{name}: {value}");
    }
}

#[test]
fn each_missing_or_wrong_header_is_refused() {
    let names = ["host", "connection", "upgrade", "postern-lane", "postern-connector"];
    for name in names {
        let mut request = with_token();
        request.headers_mut().unwrap().remove(name);
        assert_eq!(verdict(request), Err((400, reason::REQUEST_MALFORMED)), "without {name}");
    }
    for (name, value) in
        [("upgrade", "websocket"), ("connection", "close"), ("postern-lane", "fast"), ("postern-connector", "x")]
    {
        let mut request = with_token();
        request.headers_mut().unwrap().insert(name, value.parse().unwrap());
        assert_eq!(verdict(request), Err((400, reason::REQUEST_MALFORMED)), "{name}: {value}");
    }
}

#[test]
fn any_other_request_line_is_not_found() {
    let lines = [
        "/",
        "/v1/tunnels/connect/",
        "/v1/tunnels/connect?x",
        "/v1/tunnels",
        "//v1/tunnels/connect",
        "/v1/tunnels/%63onnect",
        "https://edge.example/v1/tunnels/connect",
    ];
    for line in lines {
        assert_eq!(verdict(with_token().uri(line)).map_err(|(status, _)| status), Err(404), "{line}");
    }
    assert_eq!(verdict(with_token().method("POST")).map_err(|(status, _)| status), Err(404));
    assert_eq!(verdict(with_token().version(Version::HTTP_10)).map_err(|(status, _)| status), Err(404));
}
