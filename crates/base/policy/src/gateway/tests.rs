use super::*;

#[test]
fn a_document_without_routes_has_none() {
    assert!(Routes::load(&Document::empty()).unwrap().is_empty());
}
