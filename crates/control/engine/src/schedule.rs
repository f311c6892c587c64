//! When a cron expression comes due: five fields on the wall clock of a time zone. A wall-clock time that is skipped when clocks go
//! forward does not come due, one that is repeated when they go back comes due twice. Pure.

use cronexpr::Crontab;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, civil};
use postern_model::deployment::ScheduleParam;
use postern_model::{Problem, Timestamp};

/// The least and the most that the last moment of acting on a time may be later than the time.
const JITTER: [SignedDuration; 2] = [SignedDuration::from_secs(5), SignedDuration::from_mins(9)];
/// Clocks go back by less than this.
const LARGEST_FOLD: SignedDuration = SignedDuration::from_hours(3);
/// Names that may stand for months and days of the week.
const NAMES: [&str; 19] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC", "SUN", "MON", "TUE", "WED",
    "THU", "FRI", "SAT",
];

/// A schedule that was understood.
pub(crate) struct Cron {
    /// Over the wall clock, as if it were UTC.
    crontab: Crontab,
    zone: TimeZone,
}

impl Cron {
    /// Reads a schedule as sent.
    ///
    /// # Errors
    /// 400 naming the field and what is wrong with it.
    pub(crate) fn read(param: &ScheduleParam) -> Result<Self, Problem> {
        let ScheduleParam::Cron { expression, timezone } = param;
        let zone = zone(timezone)?;
        check_fields(expression)?;
        let crontab = cronexpr::parse_crontab(&format!("{expression} UTC"))
            .map_err(|error| Problem::invalid_at("schedule.expression", one_line(&error.to_string())))?;
        Ok(Self { crontab, zone })
    }

    /// The next times after an instant, at most so many, the earliest first.
    pub(crate) fn after(&self, after: Timestamp, most: usize) -> Vec<Timestamp> {
        let wall = |at: Timestamp| self.zone.to_datetime(at);
        // Where clocks go back near by, wall-clock times before this one may come again.
        let near = |offset: SignedDuration| after.checked_add(offset).map_or(after, |at| at);
        let steady = self.zone.to_offset(near(-LARGEST_FOLD)) == self.zone.to_offset(near(LARGEST_FOLD));
        let start = if steady { wall(after) } else { wall(near(-LARGEST_FOLD)) };
        let mut found = Vec::new();
        for time in self.wall_times(start) {
            let settled = found.get(most.saturating_sub(1)).is_some_and(|last: &Timestamp| {
                self.earliest(time).is_some_and(|earliest| earliest > near_by(*last, LARGEST_FOLD))
            });
            if settled || most == 0 {
                break;
            }
            found.extend(self.instants(time).into_iter().filter(|at| *at > after));
            found.sort_unstable();
        }
        found.truncate(most);
        found
    }

    /// When a time is acted on: later by up to 15 % of the interval to the one that follows, always the same for one deployment.
    pub(crate) fn with_jitter(&self, scheduled_at: Timestamp, seed: &str) -> Timestamp {
        let [least, most] = JITTER;
        let interval = self.after(scheduled_at, 1).first().map_or(most, |next| next.duration_since(scheduled_at));
        let bound = (interval * 15 / 100).clamp(least, most);
        let share = i32::from(seed.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)));
        scheduled_at.checked_add(bound * share / 255).unwrap_or(scheduled_at)
    }

    fn wall_times(&self, after: civil::DateTime) -> impl Iterator<Item = civil::DateTime> {
        let start = after.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp()).unwrap_or(Timestamp::MAX);
        let times = self.crontab.iter_after(start).into_iter().flatten();
        times.map_while(Result::ok).map(|zoned| zoned.datetime())
    }

    fn instants(&self, time: civil::DateTime) -> Vec<Timestamp> {
        let offsets = match self.zone.to_ambiguous_timestamp(time).offset() {
            AmbiguousOffset::Unambiguous { offset } => vec![offset],
            AmbiguousOffset::Gap { .. } => Vec::new(),
            AmbiguousOffset::Fold { before, after } => vec![before, after],
        };
        offsets.into_iter().filter_map(|offset| offset.to_timestamp(time).ok()).collect()
    }

    fn earliest(&self, time: civil::DateTime) -> Option<Timestamp> {
        self.zone.to_ambiguous_timestamp(time).earlier().ok()
    }
}

fn near_by(at: Timestamp, offset: SignedDuration) -> Timestamp {
    at.checked_add(offset).unwrap_or(Timestamp::MAX)
}

fn zone(name: &str) -> Result<TimeZone, Problem> {
    let is_name = name == "UTC" || name.contains('/');
    TimeZone::get(name).ok().filter(|_| is_name).ok_or_else(|| {
        Problem::invalid_at(
            "schedule.timezone",
            format!("`{name}` is no time zone; use a name such as Europe/Berlin or UTC"),
        )
    })
}

/// What the contract leaves out of cron: seconds, years, `@daily`, and the letters `L`, `W`, `#` and `?`.
fn check_fields(expression: &str) -> Result<(), Problem> {
    let invalid = |message: String| Problem::invalid_at("schedule.expression", message);
    let fields: Vec<&str> = expression.split_ascii_whitespace().collect();
    if fields.len() != 5 || expression.len() > 256 {
        let message = "must have five fields: minute, hour, day of month, month, day of week";
        return Err(invalid(message.to_owned()));
    }
    let is_separator = |character: char| matches!(character, ',' | '-' | '/');
    for part in fields.iter().flat_map(|field| field.split(is_separator)) {
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number && part != "*" && !NAMES.contains(&part.to_ascii_uppercase().as_str()) {
            return Err(invalid(format!("`{part}` is neither a number, a name of a month or weekday, nor `*`")));
        }
    }
    Ok(())
}

/// The parser's message points at the text in further lines.
fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|line| line.chars().any(char::is_alphanumeric));
    lines.collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(expression: &str, timezone: &str) -> Result<Cron, Problem> {
        Cron::read(&ScheduleParam::Cron { expression: expression.into(), timezone: timezone.into() })
    }

    fn times(expression: &str, timezone: &str, after: &str, most: usize) -> Vec<String> {
        let cron = cron(expression, timezone).unwrap_or_else(|problem| panic!("{expression}: {problem}"));
        cron.after(after.parse().unwrap(), most).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn times_are_those_of_the_wall_clock() {
        for (expression, timezone, after, expected) in [
            ("*/15 * * * *", "UTC", "2026-01-01T00:00:00Z", ["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]),
            ("0 9 * * 1-5", "Europe/Berlin", "2026-01-02T08:00:00Z", ["2026-01-05T08:00:00Z", "2026-01-06T08:00:00Z"]),
            (
                "0 9 * * MON-FRI",
                "Europe/Berlin",
                "2026-07-03T07:00:00Z",
                ["2026-07-06T07:00:00Z", "2026-07-07T07:00:00Z"],
            ),
            ("30 6 1 * *", "Asia/Kolkata", "2026-01-01T01:00:00Z", ["2026-02-01T01:00:00Z", "2026-03-01T01:00:00Z"]),
            ("0 0 * * 0", "UTC", "2026-01-01T00:00:00Z", ["2026-01-04T00:00:00Z", "2026-01-11T00:00:00Z"]),
            ("0 0 * * 7", "UTC", "2026-01-01T00:00:00Z", ["2026-01-04T00:00:00Z", "2026-01-11T00:00:00Z"]),
            // Either day is enough, as ever in cron.
            ("0 0 13 * 5", "UTC", "2026-01-01T00:00:00Z", ["2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z"]),
            ("0 12 29 FEB *", "UTC", "2026-01-01T00:00:00Z", ["2028-02-29T12:00:00Z", "2032-02-29T12:00:00Z"]),
        ] {
            assert_eq!(times(expression, timezone, after, 2), expected, "{expression} {timezone}");
        }
    }

    #[test]
    fn a_time_that_is_skipped_does_not_come_due_and_one_that_is_repeated_comes_due_twice() {
        let skipped = times("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3);
        assert_eq!(skipped, ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"]);
        let repeated = times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3);
        assert_eq!(repeated, ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"]);
        let between = times("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", 1);
        assert_eq!(between, ["2026-10-25T01:30:00Z"], "the second of the two comes after the first");
        let quarters = times("0,30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", 6);
        let expected =
            ["00:00", "00:30", "01:00", "01:30", "02:00", "02:30"].map(|time| format!("2026-10-25T{time}:00Z"));
        assert_eq!(quarters, expected, "no time is lost or out of order");
    }

    #[test]
    fn what_the_contract_leaves_out_of_cron_is_refused() {
        for (expression, timezone, part) in [
            ("* * * *", "UTC", "five fields"),
            ("0 * * * * *", "UTC", "five fields"),
            ("@daily", "UTC", "five fields"),
            ("0 0 L * *", "UTC", "`L`"),
            ("0 0 15W * *", "UTC", "`15W`"),
            ("0 0 * * 5#3", "UTC", "`5#3`"),
            ("0 0 ? * *", "UTC", "`?`"),
            ("0 0 * * UTC", "UTC", "`UTC`"),
            ("60 0 * * *", "UTC", "schedule.expression"),
            ("0 0 * * 8", "UTC", "schedule.expression"),
            ("*/0 * * * *", "UTC", "schedule.expression"),
            ("0 0 * * *", "Mars/Olympus", "schedule.timezone"),
            ("0 0 * * *", "CET-1", "schedule.timezone"),
            ("0 0 * * *", "", "schedule.timezone"),
        ] {
            let Err(problem) = cron(expression, timezone) else { panic!("{expression} {timezone} was taken") };
            assert!(problem.message.contains(part) && !problem.message.contains('\n'), "{expression}: {problem}");
        }
    }

    #[test]
    fn what_never_comes_due_has_no_times() {
        assert!(times("0 0 30 2 *", "UTC", "2026-01-01T00:00:00Z", 5).is_empty());
    }

    #[test]
    fn jitter_is_within_its_bounds_and_the_same_each_time() {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (expression, most) in [("* * * * *", 9), ("0 * * * *", 540), ("0 0 * * *", 540)] {
            let cron = cron(expression, "UTC").unwrap();
            for seed in ["depl_a", "depl_b", "depl_zzzzzzzz"] {
                let late = cron.with_jitter(at, seed).duration_since(at).as_secs();
                assert!((0..=most).contains(&late), "{expression} {seed}: {late} s");
                assert_eq!(cron.with_jitter(at, seed), cron.with_jitter(at, seed));
            }
        }
    }
}
