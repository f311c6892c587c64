use super::*;

#[test]
fn an_endpoint_is_read_from_its_url() {
    let table = [
        ("https://api.example.com", "https://api.example.com"),
        ("https://API.example.com:443/", "https://api.example.com"),
        ("http://127.0.0.1:9100", "http://127.0.0.1:9100"),
        ("http://[::1]:9100/v1/", "http://[::1]:9100/v1"),
        ("http://[::1]", "http://[::1]"),
    ];
    for (text, shown) in table {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
    }
}

#[test]
fn a_url_that_says_more_or_less_than_an_endpoint_is_refused() {
    let table = [
        ("api.example.com", BadEndpoint::Scheme),
        ("ftp://api.example.com", BadEndpoint::Scheme),
        ("https://user:key@api.example.com", BadEndpoint::Userinfo),
        ("https://api.example.com/?key=1", BadEndpoint::Extra),
        ("https://api.example.com:0", BadEndpoint::Port),
        ("https://api.example.com:x", BadEndpoint::Port),
        ("https://127.1", BadEndpoint::Host(crate::BadHost::OddAddress)),
        ("https://", BadEndpoint::Host(crate::BadHost::Empty)),
        ("https://a.example/../b", BadEndpoint::Path(crate::BadPath::DotSegment)),
    ];
    for (text, error) in table {
        assert_eq!(text.parse::<Endpoint>(), Err(error), "{text}");
    }
}

#[test]
fn the_operators_word_reaches_private_addresses_but_no_metadata_service() {
    let permit = configured(&"http://model.internal:9100".parse().unwrap());
    for address in ["10.0.0.1", "127.0.0.1", "93.184.216.34", "::1"] {
        let dial = permit.dial(address.parse().unwrap()).unwrap();
        assert_eq!((dial.address().port(), dial.host().to_string().as_str()), (9100, "model.internal"));
    }
    assert_eq!(permit.dial("169.254.169.254".parse().unwrap()).unwrap_err().reason, Reason::AddressMetadata);
    assert_eq!(permit.dial("0.0.0.0".parse().unwrap()).unwrap_err().reason, Reason::AddressNotAllowed);
}
