//! EndpointSlices (upstream: `pkg/registry/discovery/endpointslice`).

mod validation;

use crate::cells::{Cells, age, int_or_string, list_with_more, name, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

use crate::at;
use crate::semantic::same_at;
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_to, each, strings};

pub struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().judges_prefix_again()
    }

    fn default(&self, slice: &mut Value) {
        each(slice, &["ports"], |port| {
            default_to(port, "name", "");
            default_to(port, "protocol", "TCP");
        });
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, slice: &mut Value) {
        separation::create(self.shape(), slice);
        drop_topology(slice);
    }

    /// Labels tell which Service a slice belongs to, so they count as a wish.
    fn prepare_for_update(&self, _cx: &Context<'_>, slice: &mut Value, old: &Value) {
        let changed = separation::wish_changed(slice, old) || !same_at(slice, old, &["metadata", "labels"]);
        separation::count(slice, old, changed);
        drop_topology(slice);
    }

    fn validate_create(&self, _cx: &Context<'_>, slice: &Value) -> ErrorList {
        at::check(slice, |root, e| validation::slice(root, true, e))
    }

    /// Endpoints that do not change are not looked at.
    fn validate_update(&self, _cx: &Context<'_>, slice: &Value, old: &Value) -> ErrorList {
        at::check(slice, |root, e| {
            validation::slice(root, !same_at(slice, old, &["endpoints"]), e);
            root.get("addressType").immutable_untold(old.at(&["addressType"]), e);
        })
    }

    fn warnings(&self, slice: &Value, old: Option<&Value>) -> Vec<String> {
        at::warn(slice, |root, out| validation::warn(root, old, out))
    }

    fn cells(&self, slice: &Value, now: Timestamp) -> Cells {
        let port = |p: &Value| int_or_string(p.at(&["port"]).or(p.at(&["name"])), "*");
        let ports: Vec<String> = slice.list_at(&["ports"]).iter().map(port).collect();
        let addresses: Vec<String> = slice.list_at(&["endpoints"]).iter().flat_map(|e| strings(e, &["addresses"])).map(str::to_owned).collect();
        Some(vec![name(slice), text(slice, &["addressType"]).into(), list_with_more(&ports, 3).into(), list_with_more(&addresses, 3).into(), age(slice, now)])
    }
}

/// v1 shows the topology of v1beta1 but takes none.
fn drop_topology(slice: &mut Value) {
    each(slice, &["endpoints"], |endpoint| {
        endpoint.remove(&["deprecatedTopology"]);
    });
}
