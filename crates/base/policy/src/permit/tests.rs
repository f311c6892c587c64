use std::net::IpAddr;

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

#[test]
fn a_public_mcp_server_is_dialled_at_public_addresses_and_at_those_the_operator_names() {
    let endpoint: Endpoint = "https://mcp.example:8443/mcp".parse().unwrap();
    let strict = public_server(&endpoint, &[]).unwrap();
    let extra = public_server(&endpoint, &["10.3.0.0/24".parse().unwrap(), "127.0.0.1/32".parse().unwrap()]).unwrap();
    let table = [
        ("93.184.216.34", None, None),
        ("10.3.0.7", Some(Reason::AddressPrivate), None),
        ("::ffff:10.3.0.7", Some(Reason::AddressPrivate), None),
        ("10.4.0.7", Some(Reason::AddressPrivate), Some(Reason::AddressPrivate)),
        ("127.0.0.1", Some(Reason::AddressLoopback), None),
        ("127.0.0.2", Some(Reason::AddressLoopback), Some(Reason::AddressLoopback)),
        ("169.254.169.254", Some(Reason::AddressMetadata), Some(Reason::AddressMetadata)),
        ("64:ff9b::169.254.169.254", Some(Reason::AddressMetadata), Some(Reason::AddressMetadata)),
        ("0.0.0.0", Some(Reason::AddressPrivate), Some(Reason::AddressPrivate)),
    ];
    for (address, strictly, with_extra) in table {
        let reason = |permit: &PublicPermit| permit.dial(address.parse().unwrap()).err().map(|denial| denial.reason);
        assert_eq!((reason(&strict), reason(&extra)), (strictly, with_extra), "{address}");
    }
    assert_eq!(strict.target(), Target::Resolve("mcp.example".parse().unwrap(), Port::new(8443).unwrap()));
    let dial = strict.dial("93.184.216.34".parse().unwrap()).unwrap();
    assert_eq!((dial.address().port(), dial.host().to_string().as_str()), (8443, "mcp.example"));
}

#[test]
fn what_is_dialled_is_the_address_in_its_one_form() {
    let public = public_server(&"https://mcp.example".parse().unwrap(), &["10.3.0.0/24".parse().unwrap()]).unwrap();
    let configured = configured(&"https://model.internal".parse().unwrap());
    for (given, one_form) in [("::ffff:93.184.216.34", "93.184.216.34"), ("::ffff:10.3.0.7", "10.3.0.7")] {
        let (given, one_form): (IpAddr, IpAddr) = (given.parse().unwrap(), one_form.parse().unwrap());
        assert_eq!(public.dial(given).unwrap().address().ip(), one_form);
        assert_eq!(configured.dial(given).unwrap().address().ip(), one_form);
    }
}

#[test]
fn the_operators_extra_range_does_not_name_a_metadata_service_inside_it() {
    let endpoint: Endpoint = "https://mcp.example".parse().unwrap();
    let permit = public_server(&endpoint, &["169.254.0.0/16".parse().unwrap()]).unwrap();
    assert_eq!(permit.dial("169.254.169.254".parse().unwrap()).unwrap_err().reason, Reason::AddressMetadata);
    assert!(permit.dial("169.254.1.1".parse().unwrap()).is_ok());
}

#[test]
fn a_public_mcp_server_is_spoken_to_over_tls_only() {
    let endpoint: Endpoint = "http://mcp.example".parse().unwrap();
    assert_eq!(public_server(&endpoint, &[]).unwrap_err().reason, Reason::SchemeNotAllowed);
}
