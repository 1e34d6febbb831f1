//! Trees that are nested deep. Kubernetes reads JSON of 10,000 levels, and Go's stacks grow with them. Ours do not, and much of
//! what walks a tree calls itself, its end (`Drop`) among it: so the threads that hold what clients send have a stack that
//! suffices for all levels. It is memory only as far as somebody went.

use crate::Value;

/// How deep bodies may be nested (`encoding/json/scanner.go`: `maxNestingDepth`).
pub const DEPTH_MAX: usize = 10_000;

/// Bytes of stack with which a thread can hold, compare, change and write trees of [`DEPTH_MAX`] levels, also unoptimised.
pub const STACK_BYTES: usize = 128 << 20;

/// How many lists and objects stand within each other, at most: 1 for a list of numbers, 0 for a number.
pub fn depth(tree: &Value) -> usize {
    match tree {
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or_default(),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

/// Does something on a thread with the stack for it, and waits. A panic there is one here.
///
/// # Panics
/// When no thread can be had.
pub fn run<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work).expect("the system gives a thread");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn depth_counts_lists_and_objects() {
        for (tree, wanted) in [(json!(1), 0), (json!([]), 1), (json!({"a": [1], "b": {"c": [{}]}}), 4)] {
            assert_eq!(depth(&tree), wanted, "{tree}");
        }
    }

    #[test]
    fn the_deepest_trees_are_copied_compared_and_dropped() {
        let levels = run(|| {
            let around = |inner, level| if level % 2 == 0 { Value::Array(vec![inner]) } else { Value::Object([("a".to_owned(), inner)].into_iter().collect()) };
            let tree = (0..DEPTH_MAX).fold(Value::Null, around);
            let copy = tree.clone();
            assert_eq!(copy, tree);
            depth(&copy)
        });
        assert_eq!(levels, DEPTH_MAX);
    }
}
