//! EndpointSlices (upstream: `pkg/registry/discovery/endpointslice`).

use knarr_core::{Value, ValueExt};

use crate::semantic::same;
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_to, each};

pub struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation()
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
        let path = ["metadata", "labels"];
        let changed = separation::wish_changed(slice, old) || !same(slice.at(&path), old.at(&path));
        separation::count(slice, old, changed);
        drop_topology(slice);
    }
}

/// v1 shows the topology of v1beta1 but takes none.
fn drop_topology(slice: &mut Value) {
    each(slice, &["endpoints"], |endpoint| {
        endpoint.remove(&["deprecatedTopology"]);
    });
}
