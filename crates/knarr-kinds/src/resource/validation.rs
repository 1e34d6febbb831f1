//! Validation of the kinds of `resource.k8s.io` (upstream: `pkg/apis/resource/validation`).
//! What upstream declares on the types comes after what it checks by hand.

use std::collections::{BTreeMap, BTreeSet};

use knarr_cel::device::{Problem, SELECTOR_BYTES_MAX, check_selector};
use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::{Value, ValueExt, names};

use super::capacity;
use crate::at::{At, check};
use crate::pod::validation::{csi_driver_name, node_selector};
use crate::storage::validation::declared_driver_name;

const REQUESTS_MAX: i64 = 32;
const SELECTORS_MAX: i64 = 32;
const DEVICES_MAX: i64 = 128;
const DEVICES_WITH_MORE_MAX: i64 = 64;
const COUNTER_SETS_MAX: i64 = 8;
const ATTRIBUTES_AND_CAPACITIES_MAX: usize = 32;
const ID_MAX: i64 = 32;
const DOMAIN_MAX: i64 = 63;
const POOL_NAME_MAX: i64 = 253;
const TEXT_MAX: i64 = 64;
const PARAMETER_BYTES_MAX: i64 = 10 * 1024;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
const MODES: [&str; 2] = ["All", "ExactCount"];
const OPERATORS: [&str; 2] = ["Equal", "Exists"];

/// Problems found by hand, and those that upstream declares.
#[derive(Default)]
struct Found {
    by_hand: ErrorList,
    declared: ErrorList,
}

impl Found {
    fn all(mut self) -> ErrorList {
        self.by_hand.append(&mut self.declared);
        self.by_hand
    }
}

fn found(object: &Value, rules: impl FnOnce(&At, &mut Found)) -> ErrorList {
    let mut found = Found::default();
    rules(&At::root(object), &mut found);
    found.all()
}

/// A text that is looked at even when it is absent.
fn label(text: &At, e: &mut ErrorList) {
    e.extend(names::is_dns1123_label(text.str()).into_iter().map(|p| text.invalid_as(text.str(), p)));
}

fn qualified_name(text: &At, e: &mut ErrorList) {
    e.extend(names::is_qualified_name(text.str()).into_iter().map(|p| text.invalid_as(text.str(), p)));
}

/// Not more than this many; otherwise the items are not looked at.
fn few(list: &At, max: i64, e: &mut ErrorList) -> bool {
    let good = list.len() as i64 <= max;
    if !good {
        e.push(list.too_many(max));
    }
    good
}

/// The spec of a claim (of a ResourceClaim, or of its template).
pub fn claim(object: &Value, path: &[&str]) -> ErrorList {
    found(object, |root, f| match path {
        [] => claim_spec(&root.get("spec"), f),
        _ => template_spec(root, f),
    })
}

fn template_spec(root: &At, f: &mut Found) {
    let spec = root.get("spec");
    let metadata = spec.get("metadata");
    metadata.get("annotations").annotations(&mut f.by_hand);
    metadata.get("labels").labels(&mut f.by_hand);
    not_of_templates(&metadata, &mut f.by_hand);
    claim_spec(&spec.get("spec"), f);
}

/// What the metadata of a template cannot hold: all but labels and annotations, in the order of Go's struct, under names that are
/// made of Go's (upstream: `validateFieldAllowList`).
fn not_of_templates(metadata: &At, e: &mut ErrorList) {
    const FIELDS: [(&str, &str); 13] = [
        ("name", "name"),
        ("generateName", "generateName"),
        ("namespace", "namespace"),
        ("selfLink", "selfLink"),
        ("uid", "uID"),
        ("resourceVersion", "resourceVersion"),
        ("generation", "generation"),
        ("creationTimestamp", "creationTimestamp"),
        ("deletionTimestamp", "deletionTimestamp"),
        ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
        ("ownerReferences", "ownerReferences"),
        ("finalizers", "finalizers"),
        ("managedFields", "managedFields"),
    ];
    let set = FIELDS.iter().filter(|(name, _)| metadata.get(name).value().is_some_and(|v| !crate::tree::is_zero(v)));
    e.extend(set.map(|(_, shown)| Error::forbidden(&metadata.path().child(shown), "cannot be set")));
}

/// Requests for administration need a namespace that says so (upstream: `AuthorizedForAdmin`). `path` leads to the claim's spec;
/// the error names it as if it were a claim's own.
pub fn admin_access(object: &Value, path: &[&str], namespace_labels: Option<&Value>) -> ErrorList {
    const LABEL: &str = "resource.kubernetes.io/admin-access";
    let requests: Vec<&str> = path.iter().copied().chain(["devices", "requests"]).collect();
    let asking = object.list_at(&requests).iter().position(|r| r.bool_at(&["exactly", "adminAccess"]) == Some(true));
    let Some(index) = asking.filter(|_| namespace_labels.and_then(|l| l.get(LABEL)).and_then(Value::as_str) != Some("true")) else { return ErrorList::new() };
    let place = Path::new("spec").child("devices").child("requests").index(index).child("adminAccess");
    vec![Error::forbidden(&place, format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace"))]
}

/// A changed template: its spec may not change.
pub fn template_update(template: &Value, old: &Value) -> ErrorList {
    found(template, |root, f| {
        template_spec(root, f);
        root.get("spec").immutable(old.at(&["spec"]), &mut f.by_hand);
    })
}

/// The names of requests, each with those of its alternatives.
type Requests<'v> = BTreeMap<&'v str, BTreeSet<&'v str>>;

fn claim_spec(spec: &At, f: &mut Found) {
    let devices = spec.get("devices");
    let (requests, constraints, configs) = (devices.get("requests"), devices.get("constraints"), devices.get("config"));
    let named: Requests<'_> = requests.items().map(|r| (r.str_of("name"), r.get("firstAvailable").items().map(|s| s.str_of("name")).collect())).collect();
    if few(&requests, REQUESTS_MAX, &mut f.declared) {
        requests.items().for_each(|r| request(&r, f));
        unique_names(&requests, f);
    }
    if few(&constraints, REQUESTS_MAX, &mut f.declared) {
        constraints.items().for_each(|c| constraint(&c, &named, f));
    }
    if few(&configs, REQUESTS_MAX, &mut f.declared) {
        for config in configs.items() {
            request_names(&config.get("requests"), &named, f);
            device_config(&config, f);
        }
    }
}

/// Declared: two items of one name. The whole item is shown, as the API has it.
fn unique_names(list: &At, f: &mut Found) {
    let mut seen = BTreeSet::new();
    for item in list.items() {
        if !seen.insert(item.str_of("name")) {
            f.declared.push(published(&item));
        }
    }
}

fn published(item: &At) -> knarr_core::field::Error {
    let shown = item.steps().and_then(|(root, steps)| {
        let names: Vec<&str> = steps.iter().filter_map(|s| if let knarr_schema::internal::Step::Field(name) = s { Some(*name) } else { None }).collect();
        let id = names.iter().try_fold(root, |id, name| knarr_schema::types::get(id).field(name)?.shape.struct_id())?;
        let mut out = Vec::new();
        knarr_schema::codec::write_json_of_type(&mut out, id, item.value()?);
        String::from_utf8(out).ok()
    });
    let error = item.duplicate();
    match shown {
        Some(text) => error.showing(text),
        None => error,
    }
}

fn request(request: &At, f: &mut Found) {
    label(&request.get("name"), &mut f.by_hand);
    let (exactly, first) = (request.get("exactly"), request.get("firstAvailable"));
    match (exactly.is_set(), !first.is_empty()) {
        (false, false) => f.by_hand.push(request.required("exactly one of `exactly` or `firstAvailable` is required")),
        (true, true) => {
            f.by_hand.push(request.invalid_as(Value::Null, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"));
        }
        (true, false) => wish(&exactly, f),
        (false, true) if few(&first, 8, &mut f.declared) => {
            for sub in first.items() {
                label(&sub.get("name"), &mut f.by_hand);
                wish(&sub, f);
            }
            unique_names(&first, f);
        }
        (false, true) => {}
    }
}

/// What a request and an alternative of one share.
fn wish(wish: &At, f: &mut Found) {
    let class = wish.get("deviceClassName");
    if class.is_empty() {
        f.by_hand.push(class.required(""));
    } else {
        class.problems(&mut f.by_hand, names::is_dns1123_subdomain(class.str()));
    }
    selectors(&wish.get("selectors"), f);
    let (mode, count) = (wish.get("allocationMode"), wish.get("count"));
    match mode.str() {
        "All" if count.int() != 0 => f.by_hand.push(count.invalid("must not be specified when allocationMode is 'All'")),
        "ExactCount" if count.int() <= 0 => f.by_hand.push(count.invalid_as(count.int(), "must be greater than zero")),
        "All" | "ExactCount" => {}
        // Only v1beta1 leaves it so.
        "" => f.by_hand.push(mode.not_supported(&MODES)),
        _ => f.declared.push(mode.not_supported(&MODES)),
    }
    wish.get("tolerations").items().for_each(|t| toleration(&t, f));
}

fn selectors(selectors: &At, f: &mut Found) {
    if !few(selectors, SELECTORS_MAX, &mut f.declared) {
        return;
    }
    for selector in selectors.items() {
        let cel = selector.get("cel");
        if cel.is_set() {
            expression(&cel.get("expression"), &mut f.by_hand);
        } else {
            f.by_hand.push(cel.required(""));
        }
    }
}

/// An expression that was not there before (upstream: `validateCELExpression`).
fn expression(expression: &At, e: &mut ErrorList) {
    if expression.str().len() > SELECTOR_BYTES_MAX {
        e.push(expression.too_long(SELECTOR_BYTES_MAX as i64));
        return;
    }
    match check_selector(expression.str()) {
        Ok(()) => {}
        Err(Problem::Invalid(why)) => e.push(expression.invalid_as(expression.str(), why)),
        Err(Problem::TooComplex) => e.push(expression.forbidden("too complex, exceeds cost limit")),
    }
}

fn toleration(toleration: &At, f: &mut Found) {
    let (key, operator, value, effect) = (toleration.get("key"), toleration.get("operator"), toleration.get("value"), toleration.get("effect"));
    if !key.is_empty() {
        qualified_name(&key, &mut f.declared);
    }
    match operator.str() {
        "Exists" if !value.is_empty() => f.by_hand.push(value.invalid("must be empty for operator `Exists`")),
        "Exists" => {}
        "Equal" => value.with_value(Some(&value.str().into())).problems(&mut f.by_hand, names::is_label_value(value.str())),
        "" => f.declared.push(operator.required("")),
        _ => f.declared.push(operator.not_supported(&OPERATORS)),
    }
    if !effect.is_empty() {
        effect.if_set_one_of(&mut f.declared, &EFFECTS);
    }
}

fn constraint(constraint: &At, named: &Requests<'_>, f: &mut Found) {
    request_names(&constraint.get("requests"), named, f);
    let (same, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
    for name in [&same, &distinct].into_iter().filter(|name| name.is_set()) {
        fully_qualified_name(name, &mut f.declared);
    }
    if !same.is_set() && !distinct.is_set() {
        f.by_hand.push(constraint.required("exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set"));
    }
}

const NOT_A_REQUEST: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

fn request_names(list: &At, named: &Requests<'_>, f: &mut Found) {
    if !few(list, REQUESTS_MAX, &mut f.declared) {
        return;
    }
    let mut seen = BTreeSet::new();
    for name in list.items() {
        request_name(&name, named, &mut f.by_hand);
        if !seen.insert(name.str()) {
            f.declared.push(name.duplicate());
        }
    }
}

fn request_name(name: &At, named: &Requests<'_>, e: &mut ErrorList) {
    let segments: Vec<&str> = name.str().split('/').collect();
    if segments.len() > 2 {
        e.push(name.invalid_as(name.str(), NOT_A_REQUEST));
        return;
    }
    for segment in &segments {
        e.extend(names::is_dns1123_label(segment).into_iter().map(|p| name.invalid_as(*segment, p)));
    }
    let known = named.get(segments[0]).is_some_and(|subs| segments.get(1).is_none_or(|s| subs.contains(s)));
    if !known {
        e.push(name.invalid_as(name.str(), NOT_A_REQUEST));
    }
}

fn device_config(config: &At, f: &mut Found) {
    let opaque = config.get("opaque");
    if !opaque.is_set() {
        f.by_hand.push(opaque.required(""));
        return;
    }
    declared_driver_name(&opaque.get("driver"), &mut f.declared);
    let parameters = opaque.get("parameters");
    match parameters.value() {
        None => f.by_hand.push(parameters.required("")),
        Some(value) if value.to_string().len() as i64 > PARAMETER_BYTES_MAX => f.by_hand.push(parameters.too_long(PARAMETER_BYTES_MAX)),
        Some(value) if !value.is_object() => f.by_hand.push(parameters.invalid("must be a valid JSON object")),
        Some(_) => {}
    }
}

/// `name`, or `domain/name` (upstream: `validateQualifiedName`).
fn device_name(name: &At, text: &str, e: &mut ErrorList) {
    if text.is_empty() {
        e.push(name.required("name required"));
        return;
    }
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [id] => identifier(name, id, e),
        [domain, id] => {
            if domain.is_empty() {
                e.push(name.invalid_as("", "the domain must not be empty"));
            } else {
                if domain.len() as i64 > DOMAIN_MAX {
                    e.push(name.too_long(DOMAIN_MAX));
                }
                e.extend(names::is_dns1123_subdomain(&domain.to_lowercase()).into_iter().map(|p| name.invalid_as(*domain, p)));
            }
            if id.is_empty() {
                e.push(name.invalid_as("", "the name must not be empty"));
            } else {
                identifier(name, id, e);
            }
        }
        _ => {}
    }
}

const NOT_AN_IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";

fn identifier(place: &At, id: &str, e: &mut ErrorList) {
    if id.len() as i64 > ID_MAX {
        e.push(place.too_long(ID_MAX));
    }
    let good = id.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_') && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !good {
        e.push(place.invalid_as(id, NOT_AN_IDENTIFIER));
    }
}

fn fully_qualified_name(name: &At, e: &mut ErrorList) {
    if let Some((_, id)) = name.str().split_once('/') {
        device_name(name, name.str(), e);
        let _ = id;
    } else {
        identifier(name, name.str(), e);
        e.push(name.invalid("a fully qualified name must be a domain and a name separated by a slash"));
    }
}

/// A DeviceClass.
pub fn class(class: &Value) -> ErrorList {
    found(class, |root, f| {
        let spec = root.get("spec");
        selectors(&spec.get("selectors"), f);
        let configs = spec.get("config");
        if few(&configs, REQUESTS_MAX, &mut f.declared) {
            configs.items().for_each(|c| device_config(&c, f));
        }
        let extended = spec.get("extendedResourceName");
        if extended.is_set() {
            if !extended.str().contains('/') {
                f.declared.push(extended.invalid("a name must be a domain-prefixed path, such as 'example.com/my-prop'"));
            }
            if !extended.str().is_empty() || !extended.str().contains('/') {
                let problems = names::is_qualified_name(extended.str()).into_iter().filter(|p| p != "name part must be non-empty");
                f.declared.extend(problems.map(|p| extended.invalid(p)));
            }
        }
    })
}

/// A DeviceTaintRule.
pub fn taint_rule(rule: &Value, old: Option<&Value>) -> ErrorList {
    found(rule, |root, f| {
        let spec = root.get("spec");
        let selector = spec.get("deviceSelector");
        let driver = selector.get("driver");
        if driver.is_set() {
            driver_name(&driver, &mut f.by_hand);
        }
        let pool = selector.get("pool");
        if pool.is_set() {
            pool_name(&pool, &mut f.by_hand);
        }
        let device = selector.get("device");
        if device.is_set() {
            label(&device, &mut f.by_hand);
        }
        taint(&spec.get("taint"), old.and_then(|o| o.at(&["spec", "taint"])), f);
    })
}

fn driver_name(driver: &At, e: &mut ErrorList) {
    if driver.is_empty() {
        e.push(driver.required(""));
    } else {
        csi_driver_name(driver, e);
    }
}

fn pool_name(pool: &At, e: &mut ErrorList) {
    if pool.is_empty() {
        e.push(pool.required(""));
        return;
    }
    if pool.str().len() as i64 > POOL_NAME_MAX {
        e.push(pool.too_long(POOL_NAME_MAX));
    }
    for part in pool.str().split('/') {
        e.extend(names::is_dns1123_subdomain(part).into_iter().map(|p| pool.invalid_as(part, p)));
    }
}

fn taint(taint: &At, old: Option<&Value>, f: &mut Found) {
    qualified_name(&taint.get("key"), &mut f.by_hand);
    let (value, effect) = (taint.get("value"), taint.get("effect"));
    if !value.is_empty() {
        value.problems(&mut f.by_hand, names::is_label_value(value.str()));
    }
    if old.is_none_or(|o| o.str_at(&["effect"]).unwrap_or_default() != effect.str()) {
        effect.one_of(&mut f.declared, &EFFECTS);
    }
}

/// A ResourceSlice.
pub fn slice(slice: &Value, old: Option<&Value>) -> ErrorList {
    found(slice, |root, f| {
        let spec = root.get("spec");
        let pool = spec.get("pool");
        driver_name(&spec.get("driver"), &mut f.by_hand);
        pool_of_slice(&pool, &mut f.by_hand);
        if let Some(old) = old {
            let text = |path: &[&str]| Value::from(old.str_at(path).unwrap_or_default());
            let (name, driver) = (pool.get("name"), spec.get("driver"));
            name.with_value(Some(&name.str().into())).immutable(Some(&text(&["spec", "pool", "name"])), &mut f.by_hand);
            driver.with_value(Some(&driver.str().into())).immutable(Some(&text(&["spec", "driver"])), &mut f.by_hand);
            spec.get("nodeName").immutable(old.at(&["spec", "nodeName"]), &mut f.by_hand);
        }
        nodes_of_slice(&spec, f);
        if spec.get("sharedCounters").is_set() && spec.get("devices").is_set() {
            f.by_hand.push(spec.invalid_as("", "only one of `sharedCounters` or `devices` is allowed"));
        }
        devices(&spec, old, f);
        counter_sets(&spec.get("sharedCounters"), f);
    })
}

fn pool_of_slice(pool: &At, e: &mut ErrorList) {
    pool_name(&pool.get("name"), e);
    let (generation, count) = (pool.get("generation"), pool.get("resourceSliceCount"));
    if count.int() <= 0 {
        e.push(count.invalid_as(count.int(), "must be greater than zero"));
    }
    if generation.int() < 0 {
        e.push(generation.invalid_as(generation.int(), "must be greater than or equal to zero"));
    }
}

fn nodes_of_slice(spec: &At, f: &mut Found) {
    let mut set = Vec::new();
    node_choice(spec, &mut set, f);
    switch(&spec.get("perDeviceNodeSelection"), "`perDeviceNodeSelection`", &mut set, f);
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set.len() {
        0 => f.by_hand.push(spec.required(ONE)),
        1 => {}
        _ => f.by_hand.push(spec.invalid_as(format!("{{{}}}", set.join(", ")), format!("{ONE}, but multiple fields are set"))),
    }
}

/// Which nodes reach the devices; names what is set.
fn node_choice(at: &At, set: &mut Vec<&'static str>, f: &mut Found) {
    let (name, selector) = (at.get("nodeName"), at.get("nodeSelector"));
    if name.is_set() && name.is_empty() {
        f.by_hand.push(name.invalid("must be either unset or set to a non-empty string"));
    } else if name.is_set() {
        set.push("`nodeName`");
        name.problems(&mut f.by_hand, names::is_dns1123_subdomain(name.str()));
    }
    if selector.is_set() {
        set.push("`nodeSelector`");
        node_selector(&selector, false, &mut f.by_hand);
        let terms = selector.get("nodeSelectorTerms");
        if terms.len() != 1 {
            f.by_hand.push(terms.invalid("must have exactly one node selector term"));
        }
    }
    switch(&at.get("allNodes"), "`allNodes`", set, f);
}

fn switch(field: &At, name: &'static str, set: &mut Vec<&'static str>, f: &mut Found) {
    if field.bool() {
        set.push(name);
    } else if field.is_set() {
        f.by_hand.push(field.invalid("must be either unset or set to true"));
    }
}

fn devices(spec: &At, old: Option<&Value>, f: &mut Found) {
    let devices = spec.get("devices");
    let advanced = devices.items().any(|d| {
        let lists = d.get("attributes").entries().any(|(_, a)| ["bools", "ints", "strings", "versions"].iter().any(|k| a.get(k).is_set()));
        lists || !d.get("taints").is_empty() || !d.get("consumesCounters").is_empty()
    });
    if !few(&devices, if advanced { DEVICES_WITH_MORE_MAX } else { DEVICES_MAX }, &mut f.by_hand) {
        return;
    }
    let per_device = spec.get("perDeviceNodeSelection");
    for item in devices.items() {
        let before = old.and_then(|o| o.list_at(&["spec", "devices"]).iter().find(|d| d.str_at(&["name"]) == Some(item.str_of("name"))));
        device(&item, before, &per_device, f);
    }
    let mut seen = BTreeSet::new();
    for item in devices.items() {
        if !seen.insert(item.str_of("name")) {
            f.by_hand.push(item.duplicate_as(item.str_of("name")));
        }
    }
}

fn device(device: &At, old: Option<&Value>, per_device: &At, f: &mut Found) {
    label(&device.get("name"), &mut f.by_hand);
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    if attributes.len() + capacity.len() > ATTRIBUTES_AND_CAPACITIES_MAX {
        let why = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_AND_CAPACITIES_MAX}");
        f.by_hand.push(device.invalid_as((attributes.len() + capacity.len()) as i64, why));
    }
    for (key, attribute) in attributes.entries() {
        device_name(&attributes, key, &mut f.by_hand);
        self::attribute(&attribute, f);
    }
    for (key, amount) in capacity.entries() {
        device_name(&capacity, key, &mut f.by_hand);
        if !amount.same(old.and_then(|o| o.at(&["capacity", key]))) {
            capacity::request_policy(&amount, device.get("allowMultipleAllocations").bool(), &mut f.by_hand);
        }
    }
    for consumed in device.get("consumesCounters").items() {
        consumption(&consumed, &mut f.declared);
    }
    for (i, item) in device.get("taints").items().enumerate() {
        taint(&item, old.and_then(|o| o.list_at(&["taints"]).get(i)), f);
    }
    node_of_device(device, per_device, f);
    binding_conditions(device, &mut f.by_hand);
}

/// What a device takes of the counters that it shares.
fn consumption(consumed: &At, e: &mut ErrorList) {
    let (set, counters) = (consumed.get("counterSet"), consumed.get("counters"));
    if set.is_empty() {
        e.push(set.required(""));
    } else {
        label(&set, e);
    }
    if counters.is_empty() {
        e.push(counters.required(""));
    }
    for (key, _) in counters.entries() {
        e.extend(names::is_dns1123_label(key).into_iter().map(|p| counters.invalid_as(key, p)));
    }
}

/// Conditions for which the scheduler waits, and those that end the waiting (upstream: `validateDeviceBindingParameters`).
fn binding_conditions(device: &At, e: &mut ErrorList) {
    const MAX: i64 = 4;
    let (good, bad) = (device.get("bindingConditions"), device.get("bindingFailureConditions"));
    for list in [&good, &bad] {
        if few(list, MAX, e) {
            list.items().for_each(|c| e.extend(names::is_qualified_name(c.str()).into_iter().map(|p| c.invalid_as(c.str(), p))));
        }
    }
    let mut seen = BTreeSet::new();
    e.extend(good.items().filter(|c| !seen.insert(c.str())).map(|c| c.duplicate_as(c.str())));
    let mut failures = BTreeSet::new();
    for condition in bad.items() {
        if !failures.insert(condition.str()) {
            e.push(condition.duplicate_as(condition.str()));
        }
        if seen.contains(condition.str()) {
            e.push(condition.invalid_as(condition.str(), "bindingFailureConditions must not overlap with bindingConditions"));
        }
    }
    if good.is_empty() && !bad.is_empty() {
        e.push(good.invalid("bindingConditions are required to use bindingFailureConditions"));
    }
    if bad.is_empty() && !good.is_empty() {
        e.push(bad.invalid("bindingFailureConditions are required to use bindingConditions"));
    }
}

fn node_of_device(device: &At, per_device: &At, f: &mut Found) {
    let chosen = ["nodeName", "nodeSelector", "allNodes"].into_iter().any(|field| device.get(field).is_set());
    if !per_device.bool() && !chosen {
        return;
    }
    let mut set = Vec::new();
    if per_device.bool() {
        node_choice(device, &mut set, f);
    }
    if !per_device.bool() {
        let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        f.by_hand.push(device.invalid_as(Value::Null, why));
    } else if per_device.bool() && set.is_empty() {
        let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        f.by_hand.push(device.required(why));
    } else if set.len() > 1 {
        let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        f.by_hand.push(device.invalid_as(format!("{{{}}}", set.join(", ")), why));
    }
}

const ATTRIBUTE_KINDS: [&str; 8] = ["int", "bool", "string", "version", "ints", "bools", "strings", "versions"];

fn attribute(attribute: &At, f: &mut Found) {
    let set: Vec<&str> = ATTRIBUTE_KINDS.into_iter().filter(|k| attribute.get(k).is_set()).collect();
    let all = "`int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`";
    for kind in set.iter().filter(|kind| matches!(**kind, "string" | "version")) {
        let text = attribute.get(kind);
        if *kind == "version" && !is_semver(text.str()) {
            f.by_hand.push(text.invalid("must be a string compatible with semver.org spec 2.0.0"));
        }
        if text.str().len() as i64 > TEXT_MAX {
            f.by_hand.push(text.too_long(TEXT_MAX));
        }
    }
    match set.as_slice() {
        [] => f.declared.push(attribute.invalid_as("", format!("must specify one of: {all}"))),
        [_] => {}
        several => f.declared.push(attribute.invalid_as(format!("{{{}}}", several.join(", ")), format!("must specify exactly one of: {all}"))),
    }
}

/// `1.2.3-a.1+b`.
fn is_semver(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(r, b)| (r, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(c, p)| (c, Some(p)));
    let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()) && (s == "0" || !s.starts_with('0'));
    let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let parts: Vec<&str> = core.split('.').collect();
    parts.len() == 3
        && parts.iter().all(|p| number(p))
        && pre.is_none_or(|p| p.split('.').all(|i| word(i) && (number(i) || !i.bytes().all(|b| b.is_ascii_digit()))))
        && build.is_none_or(|b| b.split('.').all(word))
}

fn counter_sets(sets: &At, f: &mut Found) {
    if !few(sets, COUNTER_SETS_MAX, &mut f.declared) {
        return;
    }
    for set in sets.items() {
        let (name, counters) = (set.get("name"), set.get("counters"));
        if name.is_empty() {
            f.declared.push(name.required(""));
        } else {
            label(&name, &mut f.declared);
        }
        if counters.is_empty() {
            f.declared.push(counters.required(""));
        }
        for (key, _) in counters.entries() {
            f.declared.extend(names::is_dns1123_label(key).into_iter().map(|p| counters.invalid_as(key, p)));
        }
    }
    unique_names(sets, f);
}

/// The status of a claim (upstream: `validateResourceClaimStatusUpdate`).
pub fn claim_status(claim: &Value, old: &Value) -> ErrorList {
    check(claim, |root, e| {
        let status = root.get("status");
        let (reserved, allocation) = (status.get("reservedFor"), status.get("allocation"));
        if reserved.len() > 256 {
            e.push(reserved.too_many(256));
        } else {
            let mut seen = BTreeSet::new();
            for user in reserved.items() {
                ["resource", "name", "uid"].iter().for_each(|field| user.get(field).require(e));
                if !seen.insert(user.str_of("uid")) {
                    e.push(user.duplicate_as(user.str_of("uid")));
                }
            }
        }
        if !reserved.is_empty() && !allocation.is_set() {
            e.push(reserved.forbidden("may not be specified when `allocated` is not set"));
        }
        if let Some(before) = old.at(&["status", "allocation"])
            && allocation.is_set()
            && !allocation.same(Some(before))
        {
            e.push(allocation.invalid_as(Value::Null, "field cannot be modified once set"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_claim_is_checked_in_upstreams_words_and_order() {
        let spec = json!({"devices": {"requests": [{"name": "r"}], "config": [{"requests": ["x"], "opaque": {}}]}});
        let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "a"}, "spec": spec});
        assert_eq!(
            texts(&super::claim(&claim, &[])),
            [
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required".to_owned(),
                format!("spec.devices.config[0].requests[0]: Invalid value: \"x\": {NOT_A_REQUEST}"),
                "spec.devices.config[0].opaque.parameters: Required value".to_owned(),
                "spec.devices.config[0].opaque.driver: Required value".to_owned(),
            ]
        );
    }

    #[test]
    fn selectors_are_compiled() {
        let class = |expression: &str| {
            let spec = json!({"selectors": [{"cel": {"expression": expression}}]});
            texts(&super::class(&json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "c"}, "spec": spec})))
        };
        assert_eq!(class("device.driver == 'd.example.com'"), [""; 0]);
        assert_eq!(
            class("device.driver"),
            ["spec.selectors[0].cel.expression: Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not string"]
        );
    }

    #[test]
    fn a_template_has_labels_and_annotations_alone_and_stays_as_it_is() {
        let template = |metadata: Value, name: &str| {
            let spec = json!({"devices": {"requests": [{"name": name, "exactly": {"deviceClassName": "c", "allocationMode": "All"}}]}});
            json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "t"}, "spec": {"metadata": metadata, "spec": spec}})
        };
        let found = texts(&super::claim(&template(json!({"name": "x", "uid": "y", "labels": {"a": "b"}}), "r"), &["spec"]));
        assert_eq!(found, ["spec.metadata.name: Forbidden: cannot be set", "spec.metadata.uID: Forbidden: cannot be set"]);
        let (old, new) = (template(json!({}), "r"), template(json!({}), "Not Valid!"));
        let fields: Vec<String> = template_update(&new, &old).iter().map(|e| e.field.to_string()).collect();
        assert_eq!(fields, ["spec.spec.devices.requests[0].name", "spec"]);
    }

    #[test]
    fn administration_needs_a_namespace_that_allows_it() {
        let claim = json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"adminAccess": true}}]}}});
        let labels = json!({"resource.kubernetes.io/admin-access": "true"});
        assert_eq!(admin_access(&claim, &["spec"], Some(&labels)), []);
        assert_eq!(admin_access(&claim, &["spec"], None)[0].field.to_string(), "spec.devices.requests[0].adminAccess");
    }

    #[test]
    fn versions_are_those_of_semver() {
        assert!(is_semver("1.0.0-alpha.1+b") && is_semver("0.1.2"));
        assert!(!is_semver("1.0") && !is_semver("01.0.0") && !is_semver("text-7") && !is_semver("1.0.0-01"));
    }
}
