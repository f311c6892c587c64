//! Every answer to a heartbeat and what follows from it.

use super::*;

fn answer(last: &str, ttl_seconds: u64) -> Beat {
    Beat::Answer { last_heartbeat: last.into(), extended: true, stopping: false, ttl_seconds }
}

const NOW: Duration = Duration::from_secs(1_000);

#[test]
fn the_first_beat_expects_none_and_the_next_echoes_the_answer_byte_for_byte() {
    let mut lease = Lease::new(NOW);
    assert_eq!(lease.expected(), "NO_HEARTBEAT");
    lease.heard(answer("2026-01-01T00:00:00.1+00:00", 30), NOW).expect("held");
    assert_eq!(lease.expected(), "2026-01-01T00:00:00.1+00:00");
}

#[test]
fn the_interval_is_half_the_lease_within_bounds() {
    for (ttl, interval) in [(300, 30), (30, 15), (2, 1), (1, 1), (0, 30)] {
        let mut lease = Lease::new(NOW);
        assert_eq!(lease.heard(answer("a", ttl), NOW), Ok(Duration::from_secs(interval)), "ttl {ttl}");
    }
}

#[test]
fn a_lease_ends_as_the_server_says_and_only_ours_is_stopped() {
    let stopping = Beat::Answer { last_heartbeat: "a".into(), extended: true, stopping: true, ttl_seconds: 30 };
    let not_extended = Beat::Answer { last_heartbeat: "a".into(), extended: false, stopping: false, ttl_seconds: 30 };
    for (beat, end, stops) in [
        (stopping, LeaseEnd::Stop, true),
        (not_extended, LeaseEnd::Stop, true),
        (Beat::Conflict, LeaseEnd::Lost, false),
        (Beat::Rejected, LeaseEnd::Rejected, true),
    ] {
        assert_eq!(Lease::new(NOW).heard(beat, NOW), Err(end));
        assert_eq!(end.may_stop(), stops);
    }
}

#[test]
fn a_lease_is_assumed_lost_after_its_length_without_a_beat() {
    let mut lease = Lease::new(NOW);
    assert!(lease.heard(Beat::Failed, NOW + Duration::from_secs(90)).is_ok());
    assert_eq!(lease.heard(Beat::Failed, NOW + Duration::from_secs(91)), Err(LeaseEnd::AssumedLost));
    let mut lease = Lease::new(NOW);
    lease.heard(answer("a", 20), NOW).expect("held");
    assert!(lease.heard(Beat::Failed, NOW + Duration::from_secs(20)).is_ok());
    assert_eq!(lease.heard(Beat::Failed, NOW + Duration::from_secs(21)), Err(LeaseEnd::AssumedLost));
    assert!(!LeaseEnd::AssumedLost.may_stop());
}

#[test]
fn a_lease_of_any_length_is_an_hour_at_most() {
    let mut lease = Lease::new(NOW);
    lease.heard(answer("a", u64::MAX), NOW).expect("held");
    assert_eq!(lease.send_window(), Duration::from_secs(3_600));
    assert_eq!(lease.heard(Beat::Failed, NOW + Duration::from_secs(3_601)), Err(LeaseEnd::AssumedLost));
}

#[test]
fn a_resumed_lease_expects_the_last_word_it_heard() {
    assert_eq!(Lease::resumed("2026-01-01T00:00:00Z".into(), NOW).expected(), "2026-01-01T00:00:00Z");
}
