//! The shipped catalogue keeps its own rules, and what the documents say of it.

use super::*;

fn shipped() -> Catalogue {
    Catalogue::shipped().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn there_are_at_least_150_probes_with_names_of_their_own() {
    let catalogue = shipped();
    assert!(catalogue.probes.len() >= 150, "{}", catalogue.probes.len());
}

#[test]
fn every_promise_and_every_control_has_a_probe() {
    let catalogue = shipped();
    for promise in Promise::ALL {
        assert!(catalogue.probes.iter().any(|probe| probe.promise == promise), "{promise} has no probe");
    }
    for control in &catalogue.controls {
        assert!(catalogue.probes.iter().any(|probe| probe.is_meant_by(&control.name)), "{} has no probe", control.name);
    }
}

#[test]
fn every_control_that_a_zone_can_require_is_there() {
    let names: BTreeSet<_> = shipped().controls.into_iter().map(|control| control.name).collect();
    for control in postern_sandbox::Control::ALL {
        assert!(names.contains(control.name()), "{control}");
    }
}

#[test]
fn what_most_probes_say_is_shown_by_running_them_once_more() {
    let catalogue = shipped();
    let shown = catalogue.probes.iter().filter(|probe| probe.against != Against::Nowhere).count();
    assert!(shown * 10 >= catalogue.probes.len() * 8, "{shown} of {}", catalogue.probes.len());
}

#[test]
fn every_reason_that_a_record_must_have_is_one_of_ours() {
    let known = postern_policy::Reason::ALL.iter().map(|reason| reason.code());
    // What custody puts on record and nobody else says.
    let known: BTreeSet<_> = known.chain([postern_custody::RefusalReason::NotGranted.code(), crate::ALLOWED]).collect();
    for probe in shipped().probes {
        let reasons = probe.record.iter().map(String::as_str);
        let refused = probe.inside.iter().filter_map(|outcome| outcome.0.strip_prefix("refused "));
        for reason in reasons.chain(refused) {
            assert!(known.contains(reason), "{}: {reason}", probe.id);
        }
    }
}

#[test]
fn every_attempt_is_a_function_of_the_attack_program() {
    let program = crate::attempt::PROGRAM;
    for probe in shipped().probes {
        for attempt in std::iter::once(&probe.attempt).chain(&probe.twin) {
            let lent = crate::attempt::lent(attempt);
            let name = lent.as_ref().unwrap_or(attempt).0[0].as_str().unwrap_or_default();
            let ours =
                ["tool", "check", "race", "confined", "gateway", "renewal", "held", "named", "lend"].contains(&name);
            assert!(ours || program.contains(&format!("\ndef {name}(")), "{}: {name}", probe.id);
        }
    }
}

#[test]
fn every_call_through_a_tunnel_is_read() {
    let calls: Vec<_> = shipped().probes.into_iter().filter(|probe| probe.area() == "gateway").collect();
    assert!(calls.len() >= 25);
    for probe in calls {
        assert!(crate::attempt::gateway(&probe.attempt).is_some(), "{}", probe.id);
    }
}

#[test]
fn every_renewal_is_read() {
    let kind = |probe: &Probe| probe.attempt.0[0].as_str() == Some("renewal");
    let renewals: Vec<_> = shipped().probes.into_iter().filter(kind).collect();
    assert!(renewals.len() >= 15);
    for probe in renewals {
        assert!(crate::attempt::renewal(&probe.attempt).is_some(), "{}", probe.id);
    }
}

#[test]
fn every_role_of_ours_is_attacked_from_its_own_place() {
    let catalogue = shipped();
    for role in ["server", "edge", "worker", "gateway", "connector", "egress", "custody", "audit", "starter"] {
        let attacks = catalogue.probes.iter().filter(|probe| probe.id.starts_with(&format!("roles/{role}-")));
        assert!(attacks.count() >= 10, "{role}");
    }
    assert!(!catalogue.probes.iter().any(|probe| probe.id.contains("{each}") || probe.tries.contains("{each}")));
}

#[test]
fn what_fills_a_disk_takes_so_much_of_it_and_for_so_long() {
    let filling = shipped().probes.into_iter().filter(|probe| probe.attempt.0[0] == "take_files");
    let taken: Vec<(u64, u64)> = filling
        .map(|probe| {
            let [files, mebibytes, seconds] = [2, 3, 4].map(|at| probe.attempt.0[at].as_u64().expect("a number"));
            (files * mebibytes, seconds)
        })
        .collect();
    assert_eq!(taken, [(120, 12), (90, 0)], "mebibytes, and seconds that they are held");
}
