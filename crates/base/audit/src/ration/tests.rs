//! A flood is told by its number, and hides nothing else.

use std::time::Duration;

use super::*;

const BURST: u32 = 200;

fn refused(reason: u8) -> Counted<u8> {
    Counted { kind: Kind::EgressRequest, reason, shadow: None, refusals: 1, alarms: 0 }
}

fn flood(ration: &Ration<u8>, reason: u8, refusals: u32, now: Instant) -> u32 {
    let alone = (0..refusals).filter(|_| ration.take(&refused(reason), now) == Told::Alone).count();
    u32::try_from(alone).unwrap()
}

#[test]
fn what_is_not_told_alone_is_counted_once() {
    let (ration, now) = (Ration::new(BURST), Instant::now());
    assert_eq!(flood(&ration, 1, BURST + 7, now), BURST);
    let counted = Counted { refusals: 7, ..refused(1) };
    assert_eq!(ration.drain(), std::slice::from_ref(&counted));
    assert_eq!(ration.drain(), []);
    ration.count(&counted);
    assert_eq!(ration.drain(), [counted]);
}

#[test]
fn a_flood_of_one_reason_or_kind_hides_no_other() {
    let (ration, now) = (Ration::new(BURST), Instant::now());
    flood(&ration, 1, BURST * 3, now);
    assert_eq!(flood(&ration, 2, 1, now), 1);
    let of_another = Counted { kind: Kind::EgressConnect, ..refused(1) };
    assert_eq!(ration.take(&of_another, now), Told::Alone);
}

#[test]
fn each_second_gives_one_and_no_pause_gives_more_than_at_first() {
    let (ration, start) = (Ration::new(BURST), Instant::now());
    flood(&ration, 1, BURST, start);
    for (millis, alone) in [(999, 0), (1_000, 1), (1_999, 0), (2_000, 1), (5_500, 3), (100_000_000, BURST)] {
        let now = start + Duration::from_millis(millis);
        assert_eq!(flood(&ration, 1, BURST * 2, now), alone, "{millis}");
    }
}

#[test]
fn counted_alarms_stay_alarms() {
    let (ration, now) = (Ration::new(BURST), Instant::now());
    for _ in 0..BURST + 2 {
        ration.take(&Counted { alarms: 1, ..refused(1) }, now);
    }
    let counted = ration.drain();
    assert_eq!(counted[0].alarms, 2);
    let records = counted[0].records(Record::new);
    assert_eq!((records[0].kind, records[0].counts["refusals"]), (Kind::EgressRequest, 2));
    assert_eq!((records[1].kind, records[1].counts["alarms"]), (Kind::Alarm, 2));
}

#[test]
fn what_a_shadow_would_have_done_is_counted_apart_up_to_a_bound() {
    let ration = Ration::new(0);
    let said = |rule: usize| Counted { shadow: Some(Shadow::new("next", None, Some(&rule.to_string()))), ..refused(1) };
    for rule in 0..SHADOWS + 3 {
        ration.take(&said(rule), Instant::now());
        ration.take(&said(0), Instant::now());
    }
    let counted = ration.drain();
    assert_eq!(counted.iter().map(|counted| counted.refusals).sum::<u64>(), 2 * (SHADOWS as u64 + 3));
    let first = counted.iter().find(|counted| counted.shadow == said(0).shadow).unwrap();
    assert_eq!(first.refusals, SHADOWS as u64 + 4);
    assert_eq!(first.records(Record::new)[0].shadow, first.shadow);
    assert_eq!(counted.iter().find(|counted| counted.shadow.is_none()).unwrap().refusals, 3);
}

#[test]
fn each_session_has_a_ration_and_those_beyond_the_bound_share_one() {
    let (rations, now) = (Rations::new(1, 2), Instant::now());
    for session in ["a", "b", "c", "d"] {
        rations.take(session, &refused(1), now);
    }
    assert_eq!(rations.drain(now), [(String::new(), refused(1))], "the third had the shared one's last");
    assert_eq!(rations.take("a", &refused(1), now), Told::Counted);
    assert_eq!(rations.take("a", &refused(2), now), Told::Alone);
    let later = now + Duration::from_secs(5);
    assert_eq!(rations.drain(later).len(), 1);
    assert!(rations.lock().is_empty(), "who has rested is forgotten");
}
