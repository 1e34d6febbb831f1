//! Sets of fields, as `sigs.k8s.io/structured-merge-diff/fieldpath.Set`: a tree in which a node may be a member, have members
//! below it, or both.

use std::borrow::Cow;
use std::cmp::Ordering;

/// One step of a path. Those that are not field names hold their JSON in its one canonical form, so that equal steps are
/// equal texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element<'a> {
    /// `f:name`
    Field(Cow<'a, str>),
    /// `k:{"name":"web"}`: the item of a list with these keys.
    Key(Cow<'a, str>),
    /// `v:"web"`: an item of a set.
    Value(Cow<'a, str>),
    /// `i:0`
    Index(Cow<'a, str>),
}

impl Element<'_> {
    /// The same, borrowing nothing.
    pub fn to_static(&self) -> Element<'static> {
        let text = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
        match self {
            Self::Field(t) => Element::Field(text(t)),
            Self::Key(t) => Element::Key(text(t)),
            Self::Value(t) => Element::Value(text(t)),
            Self::Index(t) => Element::Index(text(t)),
        }
    }
}

/// A node of the tree, and with it the set of all members below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set<'a> {
    pub member: bool,
    /// Sorted, each once, none empty.
    children: Vec<(Element<'a>, Set<'a>)>,
}

impl<'a> Set<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    /// The set of nothing but its own root.
    pub fn leaf() -> Self {
        Self { member: true, children: Vec::new() }
    }

    /// The same set with or without its root.
    #[must_use]
    pub fn with_member(mut self, member: bool) -> Self {
        self.member = member;
        self
    }

    /// The set of these dotted paths: `metadata.labels`.
    pub fn of_paths<'p: 'a>(paths: impl IntoIterator<Item = &'p str>) -> Self {
        let mut set = Self::new();
        for path in paths {
            path.split('.').fold(&mut set, |node, name| node.child_mut(Element::Field(name.into()))).member = true;
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub fn children(&self) -> &[(Element<'a>, Self)] {
        &self.children
    }

    pub fn child(&self, element: &Element<'_>) -> Option<&Self> {
        self.children.binary_search_by(|(e, _)| compare(e, element)).ok().map(|i| &self.children[i].1)
    }

    /// The child under this element, made if it is not there. The caller makes it not empty.
    pub fn child_mut(&mut self, element: Element<'a>) -> &mut Self {
        let at = match self.children.binary_search_by(|(e, _)| e.cmp(&element)) {
            Ok(at) => at,
            Err(at) => {
                self.children.insert(at, (element, Self::new()));
                at
            }
        };
        &mut self.children[at].1
    }

    /// Adds a child. Cheap when children come in order.
    pub fn insert(&mut self, element: Element<'a>, child: Self) {
        if child.is_empty() {
            return;
        }
        if self.children.last().is_none_or(|(last, _)| *last < element) {
            self.children.push((element, child));
        } else {
            let there = self.child_mut(element);
            *there = std::mem::take(there).union(child);
        }
    }

    pub fn union(mut self, other: Self) -> Self {
        self.member |= other.member;
        if self.children.is_empty() {
            self.children = other.children;
            return self;
        }
        for (element, child) in other.children {
            self.insert(element, child);
        }
        self
    }

    pub fn intersection(&self, other: &Set<'_>) -> Self {
        let mut out = Self { member: self.member && other.member, children: Vec::new() };
        for (element, left, right) in both(&self.children, &other.children) {
            out.insert(element.clone(), left.intersection(right));
        }
        out
    }

    /// Whether a member of this set is one of the other.
    pub fn intersects(&self, other: &Set<'_>) -> bool {
        self.member && other.member || both(&self.children, &other.children).any(|(_, left, right)| left.intersects(right))
    }

    /// Without the members of `other`; what lies below them stays.
    pub fn difference(self, other: &Set<'_>) -> Self {
        self.without(other, false)
    }

    /// Without the members of `other` and everything below them.
    pub fn recursive_difference(self, other: &Set<'_>) -> Self {
        self.without(other, true)
    }

    fn without(mut self, other: &Set<'_>, recursive: bool) -> Self {
        if other.member {
            if recursive {
                return Self::new();
            }
            self.member = false;
        }
        if !other.children.is_empty() {
            self.children = std::mem::take(&mut self.children)
                .into_iter()
                .filter_map(|(element, child)| {
                    let child = match other.child(&element) {
                        Some(other) => child.without(other, recursive),
                        None => child,
                    };
                    (!child.is_empty()).then_some((element, child))
                })
                .collect();
        }
        self
    }

    pub fn has(&self, path: &[Element<'_>]) -> bool {
        path.iter().try_fold(self, |node, element| node.child(element)).is_some_and(|node| node.member)
    }

    /// Visits all members: those of a node before those below its children.
    pub fn each<'s>(&'s self, path: &mut Vec<&'s Element<'a>>, visit: &mut impl FnMut(&[&'s Element<'a>])) {
        for (element, _) in self.children.iter().filter(|(_, c)| c.member) {
            path.push(element);
            visit(path);
            path.pop();
        }
        for (element, child) in self.children.iter().filter(|(_, c)| !c.children.is_empty()) {
            path.push(element);
            child.each(path, visit);
            path.pop();
        }
    }

    /// Changes the children in place; those that are empty afterwards are dropped.
    pub fn map_children(mut self, mut change: impl FnMut(&Element<'a>, Self) -> Self) -> Self {
        self.children = self
            .children
            .into_iter()
            .filter_map(|(element, child)| {
                let child = change(&element, child);
                (!child.is_empty()).then_some((element, child))
            })
            .collect();
        self
    }
}

/// Elements of different lifetimes.
fn compare(a: &Element<'_>, b: &Element<'_>) -> Ordering {
    a.cmp(b)
}

/// The children that two nodes have in common.
fn both<'s, 'a, 'b>(
    left: &'s [(Element<'a>, Set<'a>)],
    right: &'s [(Element<'b>, Set<'b>)],
) -> impl Iterator<Item = (&'s Element<'a>, &'s Set<'a>, &'s Set<'b>)> {
    let (mut i, mut j) = (0, 0);
    std::iter::from_fn(move || {
        while let (Some((a, l)), Some((b, r))) = (left.get(i), right.get(j)) {
            let order = compare(a, b);
            i += usize::from(order != Ordering::Greater);
            j += usize::from(order != Ordering::Less);
            if order == Ordering::Equal {
                return Some((a, l, r));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::fields::{parse, to_value};
    use knarr_core::{Value, json};

    fn set(text: &Value) -> Set<'_> {
        parse(text).unwrap()
    }

    #[test]
    fn a_difference_takes_members_and_a_recursive_one_what_is_below_them() {
        let left = json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}, "k:{\"name\":\"x\"}": {".": {}, "f:y": {}}});
        let right = json!({"f:a": {".": {}, "f:b": {}}, "k:{\"name\":\"x\"}": {}});
        assert_eq!(to_value(&set(&left).difference(&set(&right))), json!({"f:a": {"f:c": {}}, "f:d": {}, "k:{\"name\":\"x\"}": {"f:y": {}}}));
        assert_eq!(to_value(&set(&left).recursive_difference(&set(&right))), json!({"f:d": {}}));
        assert_eq!(to_value(&set(&left).intersection(&set(&right))), json!({"f:a": {".": {}, "f:b": {}}, "k:{\"name\":\"x\"}": {}}));
        assert_eq!(to_value(&set(&right).union(set(&left))), left);
    }
}
