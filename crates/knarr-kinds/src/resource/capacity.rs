//! How much of a device's capacity may be asked for at once (upstream: `validateRequestPolicy` and what it calls).

use std::collections::BTreeSet;

use knarr_core::field::ErrorList;
use knarr_core::quantity::Quantity;

use crate::at::At;

/// Most values that a policy may name.
const VALUES_MAX: i64 = 10;

/// The policy of a capacity, as far as it has one. Only a device that is given to several at once may.
pub fn request_policy(capacity: &At, several: bool, e: &mut ErrorList) {
    let policy = capacity.get("requestPolicy");
    if !policy.is_set() {
        return;
    }
    if !several {
        return e.push(policy.forbidden("allowMultipleAllocations must be true"));
    }
    let (values, range, default) = (policy.get("validValues"), policy.get("validRange"), policy.get("default"));
    let Some(most) = quantity(&capacity.get("value")) else { return };
    match (values.is_empty(), range.is_set(), quantity(&default)) {
        (false, true, _) => e.push(policy.forbidden("exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time")),
        (true, false, _) => {}
        (false, _, None) => e.push(default.required("required when validValues is defined")),
        (true, _, None) => e.push(default.required("required when validRange is defined")),
        (false, _, Some(default)) => valid_values(&values, default, most, e),
        (true, _, Some(default)) => Range { at: &range, default, most }.check(e),
    }
}

fn quantity(at: &At) -> Option<Quantity> {
    at.value().and_then(Quantity::from_json)
}

fn valid_values(values: &At, default: Quantity, most: Quantity, e: &mut ErrorList) {
    let amounts: Vec<Quantity> = values.items().filter_map(|v| quantity(&v)).collect();
    for (i, pair) in amounts.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        e.push(values.index(i + 1).invalid_as(pair[1].to_string(), "values must be sorted in ascending order"));
    }
    if values.len() as i64 > VALUES_MAX {
        e.push(values.too_many(VALUES_MAX));
    } else {
        for (i, amount) in amounts.iter().enumerate().filter(|(_, amount)| **amount > most) {
            e.push(values.index(i).invalid_as(amount.to_string(), format!("option is larger than capacity value: {most}")));
        }
        let mut seen = BTreeSet::new();
        for (i, amount) in amounts.iter().enumerate().filter(|(_, amount)| !seen.insert(**amount)) {
            e.push(values.index(i).duplicate_as(amount.to_string()));
        }
    }
    if values.len() as i64 > VALUES_MAX || !amounts.contains(&default) {
        e.push(values.invalid_as(default.to_string(), "default value is not valid according to the requestPolicy"));
    }
}

/// `validRange`, which begins at `min` and goes up in steps.
struct Range<'a> {
    at: &'a At<'a, 'a>,
    default: Quantity,
    most: Quantity,
}

impl Range<'_> {
    fn check(&self, e: &mut ErrorList) {
        let [min, max, step] = ["min", "max", "step"].map(|field| quantity(&self.at.get(field)));
        let Some(min) = min else { return e.push(self.at.get("min").required("required when validRange is defined")) };
        self.bounds(min, max, e);
        let amounts = [("default", Some(self.default)), ("min", Some(min)), ("max", max), ("step", step)];
        let amounts = || amounts.iter().filter_map(|(field, amount)| amount.map(|amount| (*field, amount)));
        let in_thousandths = amounts().any(|(_, amount)| !is_whole(amount));
        if in_thousandths {
            let before = e.len();
            for (field, amount) in amounts().filter(|(_, amount)| Quantity::from_millis(amount.millis()) != *amount) {
                e.push(self.at.get(field).invalid_as(amount.to_string(), "value cannot be represented as a milli value"));
            }
            if e.len() > before {
                return;
            }
        }
        let Some(step) = step else { return };
        if step <= Quantity::ZERO {
            return e.push(self.at.get("step").invalid_as(step.to_string(), "must be greater than zero"));
        }
        if min + step > self.most {
            let why = format!("one step {} is larger than capacity value: {}", min + step, self.most);
            e.push(self.at.get("step").invalid_as(step.to_string(), why));
        }
        let before = e.len();
        if !in_thousandths {
            amounts().for_each(|(field, amount)| self.countable(field, amount, e));
        }
        if e.len() == before {
            let count = |amount: Quantity| if in_thousandths { amount.millis() } else { amount.value() };
            for amount in [Some(self.default), max].into_iter().flatten() {
                if (count(amount) - count(min)) % count(step) != 0 {
                    let why = format!("value is not a multiple of a given step ({step}) from ({min})");
                    e.push(self.at.get("step").invalid_as(amount.to_string(), why));
                }
            }
        }
    }

    fn bounds(&self, min: Quantity, max: Option<Quantity>, e: &mut ErrorList) {
        let Self { at, default, most } = self;
        let mut refuse = |wrong: bool, field: &str, shown: Quantity, why: String| {
            if wrong {
                e.push(at.get(field).invalid_as(shown.to_string(), why));
            }
        };
        refuse(min > *most, "min", min, format!("min is larger than capacity value: {most}"));
        refuse(*default < min, "default", *default, format!("default is less than min: {min}"));
        let Some(max) = max else { return };
        refuse(min > max, "max", min, format!("min is larger than max: {max}"));
        refuse(max > *most, "max", max, format!("max is larger than capacity value: {most}"));
        refuse(*default > max, "default", *default, format!("default is more than max: {max}"));
    }

    /// What steps can be counted with in whole numbers.
    fn countable(&self, field: &str, amount: Quantity, e: &mut ErrorList) {
        if amount.is_negative() {
            e.push(self.at.get(field).invalid_as(amount.to_string(), "must be greater than or equal to 0"));
        } else if amount.as_whole().is_none() {
            e.push(self.at.get(field).invalid_as(amount.to_string(), "must not be larger than 9223372036854775807"));
        }
    }
}

fn is_whole(amount: Quantity) -> bool {
    // What is too large for a number is whole, too.
    amount.as_whole().is_some() || amount.as_f64().abs() >= i64::MAX as f64
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;

    #[test]
    fn policies_are_refused_in_upstreams_words() {
        let told = |policy: knarr_core::Value, several: bool| -> Vec<String> {
            let capacity = json!({"value": "10", "requestPolicy": policy});
            crate::at::check(&capacity, |at, e| request_policy(at, several, e)).iter().map(ToString::to_string).collect()
        };
        assert!(told(json!({"default": "1"}), true).is_empty());
        assert!(told(json!({"default": "2", "validValues": ["1", "2"]}), true).is_empty());
        assert!(told(json!({"default": "1500m", "validRange": {"min": "500m", "max": "2500m", "step": "500m"}}), true).is_empty());
        assert_eq!(told(json!({"default": "1"}), false), ["requestPolicy: Forbidden: allowMultipleAllocations must be true"]);
        assert_eq!(told(json!({"validValues": ["1"]}), true), ["requestPolicy.default: Required value: required when validValues is defined"]);
        assert_eq!(
            told(json!({"default": "3", "validValues": ["2", "1", "20", "1"]}), true),
            [
                "requestPolicy.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order",
                "requestPolicy.validValues[3]: Invalid value: \"1\": values must be sorted in ascending order",
                "requestPolicy.validValues[2]: Invalid value: \"20\": option is larger than capacity value: 10",
                "requestPolicy.validValues[3]: Duplicate value: \"1\"",
                "requestPolicy.validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy",
            ]
        );
        assert_eq!(
            told(json!({"default": "2", "validRange": {"min": "1", "max": "4", "step": "2"}}), true),
            [
                "requestPolicy.validRange.step: Invalid value: \"2\": value is not a multiple of a given step (2) from (1)",
                "requestPolicy.validRange.step: Invalid value: \"4\": value is not a multiple of a given step (2) from (1)",
            ]
        );
    }
}
