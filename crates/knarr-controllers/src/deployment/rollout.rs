//! The moves of a rollout: which set grows, which shrinks, and by how much, in one step.
//! Upstream: `deployment/rolling.go`, `deployment/recreate.go`, `scale` in `deployment/sync.go`.

use knarr_core::Result;

use super::plan::Drafts;
use super::{fences, sets};

impl Drafts<'_> {
    /// One step of a rolling update: the new set grows if it can; else old sets shrink if they can.
    pub fn roll(&mut self) -> Result<()> {
        let complete = self.status.is_complete(&self.d);
        self.sync_revision(true)?;
        if !self.grow_new_set() && !self.shrink_old_sets() && complete {
            self.clean_up();
        }
        self.judge();
        Ok(())
    }

    fn grow_new_set(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let (size, wanted) = (self.size(new), self.wanted());
        match size.cmp(&wanted) {
            std::cmp::Ordering::Equal => false,
            std::cmp::Ordering::Greater => self.scale(new, wanted, false),
            std::cmp::Ordering::Less => self.scale(new, fences::new_set_size(&self.d, self.total(), size), false),
        }
    }

    fn shrink_old_sets(&mut self) -> bool {
        let (Some(new), old) = (self.new_set(), self.active(self.old())) else { return false };
        let min_available = self.wanted() - fences::max_unavailable(&self.d);
        let new_unavailable = sets::replicas(new) - sets::available(new);
        let most = self.total() - min_available - new_unavailable;
        if old.is_empty() || most <= 0 {
            return false;
        }
        let unhealthy = self.drop_unhealthy(&old, most);
        unhealthy + self.drop_healthy(&old, min_available) > 0
    }

    /// Pods of old sets that do not serve go first: taking them away costs nothing.
    fn drop_unhealthy(&mut self, old: &[usize], most: i32) -> i32 {
        let mut dropped = 0;
        for &i in old {
            let (size, available) = (self.size(i), sets::available(&self.all[i].set));
            let count = (most - dropped).min(size - available);
            if count > 0 {
                self.scale(i, size - count, false);
                dropped += count;
            }
        }
        dropped
    }

    fn drop_healthy(&mut self, old: &[usize], min_available: i32) -> i32 {
        let available: i32 = self.all.iter().map(|d| sets::available(&d.set)).sum();
        let most = available - min_available;
        let mut dropped = 0;
        for &i in old {
            let count = self.size(i).min(most - dropped);
            if count > 0 {
                self.scale(i, self.size(i) - count, false);
                dropped += count;
            }
        }
        dropped
    }

    /// One step of a recreation: all old pods go and are gone before a new one comes.
    pub fn roll_by_recreation(&mut self) -> Result<()> {
        let complete = self.status.is_complete(&self.d);
        let mut scaled = false;
        for i in self.active(self.old()) {
            scaled |= self.scale(i, 0, false);
        }
        if !scaled && !self.old_pods_run() {
            self.sync_revision(true)?;
            if let Some(new) = self.new {
                self.scale(new, self.wanted(), false);
            }
            if complete {
                self.clean_up();
            }
        }
        self.judge();
        Ok(())
    }

    fn old_pods_run(&self) -> bool {
        self.old().into_iter().any(|i| {
            let set = &self.all[i].set;
            sets::actual(set) > 0 || (self.has_running_pods)(set.metadata.uid.as_deref().unwrap_or_default())
        })
    }

    /// Scales without rolling: one active set takes all, several share in proportion.
    pub fn scale_all(&mut self) {
        if let Some(i) = self.only_active_or_latest() {
            self.scale(i, self.wanted(), false);
        } else if fences::is_saturated(&self.d, self.new_set()) {
            for i in self.active(self.old()) {
                self.scale(i, 0, false);
            }
        } else if fences::is_rolling(&self.d) {
            self.scale_in_proportion();
        }
    }

    /// The only set with replicas, or without any the new one, else the newest. None when several have replicas.
    fn only_active_or_latest(&self) -> Option<usize> {
        match self.active((0..self.all.len()).collect()).as_slice() {
            [] => self.new.or_else(|| self.old().last().copied()),
            [one] => Some(*one),
            _ => None,
        }
    }

    fn scale_in_proportion(&mut self) {
        let mut order = self.active((0..self.all.len()).collect());
        let allowed = if self.wanted() > 0 { self.wanted() + fences::max_surge(&self.d) } else { 0 };
        let to_add = allowed - order.iter().map(|i| self.size(*i)).sum::<i32>();
        // Larger sets first; among equals newer ones grow and older ones shrink first.
        order.sort_by(|a, b| {
            let by_age = sets::by_age(&self.all[*a].set, &self.all[*b].set);
            self.size(*b).cmp(&self.size(*a)).then(if to_add > 0 { by_age.reverse() } else { by_age })
        });
        let mut added = 0;
        let mut sizes: Vec<(usize, i32)> = Vec::new();
        for i in order {
            let part = fences::proportion(&self.all[i].set, &self.d, to_add, added);
            added += part;
            sizes.push((i, self.size(i) + part));
        }
        if let Some((_, largest)) = sizes.first_mut().filter(|_| to_add != 0) {
            *largest = (*largest + to_add - added).max(0);
        }
        for (i, size) in sizes {
            self.scale(i, size, true);
        }
    }
}
