//! Answers the sandbox's DNS questions from the session's name table: synthetic addresses for A and AAAA, nothing for
//! any other type (no HTTPS or SVCB record, so no encrypted client hello), no lookup of anything.

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use postern_policy::Host;

use crate::{limits, names::NameTable};

/// How long a client may keep an answer, in seconds. An answer holds for the session; clients are only spared questions.
const TIME_TO_LIVE: u32 = 60;

/// The answer to one question message, or `None` where nothing is to be said (a message that is not even a header).
pub(crate) fn answer(question: &[u8], names: &mut NameTable) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes(question.get(..2)?.try_into().ok()?);
    let parsed = (question.len() <= limits::DNS_MESSAGE_BYTES).then(|| Message::from_vec(question).ok()).flatten();
    let response = match parsed {
        Some(message) if message.metadata.message_type == MessageType::Query => respond(&message, names),
        // A response is never answered: two of them could answer each other for ever.
        Some(_) => return None,
        None => Message::error_msg(id, OpCode::Query, ResponseCode::FormErr),
    };
    response.to_vec().ok()
}

fn respond(message: &Message, names: &mut NameTable) -> Message {
    let mut response = Message::response(message.metadata.id, message.metadata.op_code);
    response.metadata.recursion_desired = message.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    if message.metadata.op_code != OpCode::Query {
        response.metadata.response_code = ResponseCode::NotImp;
        return response;
    }
    let [query] = message.queries.as_slice() else {
        response.metadata.response_code = ResponseCode::FormErr;
        return response;
    };
    response.add_query(query.clone());
    match records(query, names) {
        Ok(found) => {
            response.add_answers(found);
        }
        Err(code) => response.metadata.response_code = code,
    }
    response
}

fn records(query: &Query, names: &mut NameTable) -> Result<Vec<Record>, ResponseCode> {
    let wanted = query.query_type();
    if query.query_class() != DNSClass::IN || !matches!(wanted, RecordType::A | RecordType::AAAA) {
        return Ok(Vec::new());
    }
    let host = canonical(query.name()).ok_or(ResponseCode::NXDomain)?;
    let synthetic = names.assign(&host).map_err(|_| ResponseCode::ServFail)?;
    let data = match wanted {
        RecordType::A => RData::A(A(synthetic.v4)),
        _ => RData::AAAA(AAAA(synthetic.v6)),
    };
    Ok(vec![Record::from_rdata(query.name().clone(), TIME_TO_LIVE, data)])
}

/// The name in policy's spelling; `None` for what no rule could ever name, addresses included.
fn canonical(name: &Name) -> Option<String> {
    let host: Host = name.to_ascii().parse().ok()?;
    host.name().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Meaning;

    fn ask(name: &str, kind: RecordType, names: &mut NameTable) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        Message::from_vec(&answer(&message.to_vec().unwrap(), names).unwrap()).unwrap()
    }

    #[test]
    fn addresses_are_synthetic_and_lead_back_to_the_canonical_name() {
        let mut names = NameTable::default();
        let v4 = ask("API.Example.", RecordType::A, &mut names);
        let v6 = ask("api.example", RecordType::AAAA, &mut names);
        let RData::A(A(v4)) = v4.answers[0].data else { panic!("no address") };
        let RData::AAAA(AAAA(v6)) = v6.answers[0].data else { panic!("no address") };
        assert_eq!(names.meaning(v4.into()), Meaning::Name("api.example"));
        assert_eq!(names.meaning(v6.into()), Meaning::Name("api.example"));
    }

    #[test]
    fn other_types_have_no_records() {
        let mut names = NameTable::default();
        for kind in
            [RecordType::HTTPS, RecordType::SVCB, RecordType::TXT, RecordType::MX, RecordType::PTR, RecordType::ANY]
        {
            let response = ask("api.example.", kind, &mut names);
            assert_eq!(response.metadata.response_code, ResponseCode::NoError, "{kind}");
            assert!(response.answers.is_empty(), "{kind}");
        }
    }

    #[test]
    fn names_that_no_rule_could_name_do_not_exist() {
        let mut names = NameTable::default();
        for name in ["127.0.0.1.", "0x7f.1.", "2130706433."] {
            let response = ask(name, RecordType::A, &mut names);
            assert_eq!(response.metadata.response_code, ResponseCode::NXDomain, "{name}");
        }
    }

    #[test]
    fn malformed_and_oversized_questions_are_form_errors_and_responses_are_ignored() {
        let mut names = NameTable::default();
        let mut long = vec![0_u8; limits::DNS_MESSAGE_BYTES + 1];
        long[..2].copy_from_slice(&[7, 7]);
        for bad in [&[7_u8, 7, 1][..], &[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63], &long] {
            let response = Message::from_vec(&answer(bad, &mut names).unwrap()).unwrap();
            assert_eq!(response.metadata.response_code, ResponseCode::FormErr);
            assert_eq!(response.metadata.id, 0x0707);
        }
        assert_eq!(answer(&[7], &mut names), None);
        let response = Message::response(1, OpCode::Query).to_vec().unwrap();
        assert_eq!(answer(&response, &mut names), None);
    }

    #[test]
    fn a_full_table_is_a_server_failure() {
        let mut names = NameTable::default();
        for index in 0..limits::NAMES_PER_SESSION {
            names.assign(&format!("n{index}.example")).unwrap();
        }
        let response = ask("more.example.", RecordType::A, &mut names);
        assert_eq!(response.metadata.response_code, ResponseCode::ServFail);
    }
}
