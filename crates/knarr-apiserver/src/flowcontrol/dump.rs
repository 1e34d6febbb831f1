//! `/debug/api_priority_and_fairness/…`: who waits and who runs, as aligned tables (upstream: `apf_controller_debug.go`).

use std::{fmt::Write, time::Duration};

use jiff::Timestamp;
use knarr_core::clock::Env;
use tokio::time::Instant;

use super::{
    FlowControl, Guest, Level,
    queue_set::{Request, State, Ticket},
};

/// Least width of a column (upstream: the `tabwriter` there).
const WIDTH_MIN: usize = 8;

impl FlowControl {
    /// The page of this name, if there is one. `details` tells more of each request.
    pub fn dump(&self, page: &str, details: bool, env: &Env) -> Option<String> {
        match page {
            "dump_priority_levels" => Some(table(self.levels())),
            "dump_queues" => Some(table(self.queues())),
            "dump_requests" => Some(table(self.requests(details, env))),
            _ => None,
        }
    }

    fn each(&self, mut rows: Vec<Vec<String>>, of: impl Fn(&Level) -> Vec<Vec<String>>) -> Vec<Vec<String>> {
        rows.extend(self.config.load().levels.values().flat_map(|level| of(level)));
        rows
    }

    fn levels(&self) -> Vec<Vec<String>> {
        let header = "PriorityLevelName ActiveQueues IsIdle IsQuiescing WaitingRequests ExecutingRequests DispatchedRequests RejectedRequests TimedoutRequests CancelledRequests";
        self.each(heading(header), |level| {
            let set = level.room.set.lock();
            let active = set.queues.iter().filter(|q| !q.waiting.is_empty()).count();
            let quiescing = level.room.quiescing.load(std::sync::atomic::Ordering::Relaxed);
            let totals = set.totals;
            // Upstream never counts a time-out apart from a cancellation.
            let numbers = [set.waiting as u64, set.executing as u64, totals.dispatched, totals.rejected, 0, totals.cancelled];
            let mut row = vec![level.spec.name.clone(), active.to_string(), set.is_idle().to_string(), quiescing.to_string()];
            row.extend(numbers.map(|n| n.to_string()));
            vec![row]
        })
    }

    fn queues(&self) -> Vec<Vec<String>> {
        let header = "PriorityLevelName Index PendingRequests ExecutingRequests SeatsInUse NextDispatchR InitialSeatsSum MaxSeatsSum TotalWorkSum";
        self.each(heading(header), |level| {
            let set = level.room.set.lock();
            let row = |(i, q): (usize, &super::queue_set::Queue)| {
                let numbers = [i.to_string(), q.waiting.len().to_string(), q.executing.to_string(), q.seats.to_string()];
                let sums = [q.next_dispatch.to_string(), q.initial_sum.to_string(), q.max_sum.to_string(), q.work_sum.to_string()];
                [level.spec.name.clone()].into_iter().chain(numbers).chain(sums).collect()
            };
            set.queues.iter().enumerate().map(row).collect()
        })
    }

    fn requests(&self, details: bool, env: &Env) -> Vec<Vec<String>> {
        let header =
            "PriorityLevelName FlowSchemaName QueueIndex RequestIndexInQueue FlowDistingsher ArriveTime InitialSeats FinalSeats AdditionalLatency StartTime";
        let more = " UserName Verb APIPath Namespace Name APIVersion Resource SubResource";
        // What the wall clock showed when time began here.
        let began = env.now() - (Instant::now() - self.shared.origin);
        self.each(heading(&format!("{header}{}", if details { more } else { "" })), |level| {
            let set = level.room.set.lock();
            let place = |ticket: Ticket, request: &Request<Guest>| {
                let queue = request.queue.filter(|_| request.state != State::Lingering);
                let within = queue.and_then(|q| set.queues[q].waiting.iter().position(|t| *t == ticket));
                let number = |n: Option<usize>| n.map_or_else(|| "-1".to_owned(), |n| n.to_string());
                (number(queue), number(within))
            };
            set.requests().filter(|(_, r)| r.state != State::Lingering).map(|(t, r)| row(level, r, place(t, r), began, details)).collect()
        })
    }
}

fn heading(names: &str) -> Vec<Vec<String>> {
    vec![names.split(' ').map(str::to_owned).collect()]
}

fn row(level: &Level, request: &Request<Guest>, (queue, within): (String, String), began: Timestamp, details: bool) -> Vec<String> {
    let guest = &request.guest;
    let (schema, info) = (&guest.schema.spec, &guest.info);
    let started = if request.state == State::Waiting { "0001-01-01T00:00:00Z".to_owned() } else { moment(began, request.started) };
    let mut row = vec![
        level.spec.name.clone(),
        schema.name.clone(),
        queue,
        within,
        schema.distinguisher.of(&guest.user, info).to_owned(),
        moment(began, request.arrived),
        request.width.initial.to_string(),
        request.width.last.to_string(),
        go_duration(request.width.after),
        started,
    ];
    if details {
        let version = if info.group.is_empty() { info.version.clone() } else { format!("{}/{}", info.group, info.version) };
        row.extend([&guest.user.name, &info.verb, &info.path, &info.namespace, &info.name, &version, &info.resource, &info.subresource].map(Clone::clone));
    }
    row
}

fn moment(began: Timestamp, nanos: u64) -> String {
    (began + Duration::from_nanos(nanos)).to_string()
}

/// As Go prints a whole number of milliseconds.
fn go_duration(nanos: u64) -> String {
    match nanos {
        0 => "0s".into(),
        n if n >= 1_000_000_000 => format!("{}s", n as f64 / 1e9),
        n => format!("{}ms", n as f64 / 1e6),
    }
}

/// Cells with a comma each, the last of a row without; columns are one wider than their widest cell.
fn table(rows: Vec<Vec<String>>) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count() + 2).max().unwrap_or_default().max(WIDTH_MIN);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        for (i, cell) in row.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = if i + 1 == columns { writeln!(out, "{cell}") } else { write!(out, "{:<1$}", format!("{cell},"), widths[i]) };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["PriorityLevelName", "Index", "X"], ["catch-all", "0", "y"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(table(rows.to_vec()), "PriorityLevelName, Index,  X\ncatch-all,         0,      y\n");
    }

    #[test]
    fn pages_have_a_row_for_each() {
        let flow = FlowControl::new(600);
        let lines = |page| flow.dump(page, true, &Env::system()).map(|text| text.lines().count());
        assert_eq!((lines("dump_priority_levels"), lines("dump_queues"), lines("dump_requests"), lines("x")), (Some(3), Some(1), Some(1), None));
        assert!(go_duration(5_000_000) == "5ms" && go_duration(1_500_000_000) == "1.5s" && go_duration(0) == "0s");
    }
}
