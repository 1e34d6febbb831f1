//! The tree that an expression is parsed into. Macros are already expanded in it.

/// Tells one node of a tree from the others.
pub type Id = usize;

/// One node.
#[derive(Clone, Debug)]
pub struct Expr {
    pub id: Id,
    /// Offset in characters: where errors about the node point to.
    pub at: usize,
    /// Levels of the tree from here down.
    pub depth: usize,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

#[derive(Clone, Debug)]
pub enum Kind {
    Literal(Literal),
    Ident(String),
    /// `operand.field`, or `has(operand.field)` when it is a test.
    Select {
        operand: Box<Expr>,
        field: String,
        test: bool,
    },
    Call {
        function: String,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    /// The elements, and for each whether it is optional (`[?x]`).
    List(Vec<(Expr, bool)>),
    Map(Vec<Entry>),
    /// `Name{field: value}`.
    Struct {
        name: String,
        fields: Vec<Field>,
    },
    Fold(Box<Fold>),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub struct Field {
    pub at: usize,
    pub name: String,
    pub value: Expr,
    pub optional: bool,
}

/// What comprehension macros become: a loop over a range with an accumulator.
#[derive(Clone, Debug)]
pub struct Fold {
    pub range: Expr,
    pub var: String,
    pub var2: Option<String>,
    pub accu: String,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

/// The accumulator of expanded macros. No identifier can have this name.
pub const ACCU: &str = "@result";

/// Names of functions that stand for operators.
pub mod op {
    pub const CONDITIONAL: &str = "_?_:_";
    pub const AND: &str = "_&&_";
    pub const OR: &str = "_||_";
    pub const NOT: &str = "!_";
    pub const NEGATE: &str = "-_";
    pub const IN: &str = "@in";
    pub const EQ: &str = "_==_";
    pub const NE: &str = "_!=_";
    pub const LT: &str = "_<_";
    pub const LE: &str = "_<=_";
    pub const GT: &str = "_>_";
    pub const GE: &str = "_>=_";
    pub const ADD: &str = "_+_";
    pub const SUB: &str = "_-_";
    pub const MUL: &str = "_*_";
    pub const DIV: &str = "_/_";
    pub const MOD: &str = "_%_";
    pub const INDEX: &str = "_[_]";
    pub const OPT_INDEX: &str = "_[?_]";
    pub const OPT_SELECT: &str = "_?._";
    pub const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
}

impl Expr {
    /// The dotted name, if the node is one: `a.b.c`.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.clone()),
            Kind::Select { operand, field, test: false } => Some(format!("{}.{field}", operand.qualified_name()?)),
            _ => None,
        }
    }

    /// The node itself and all nodes below it.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        visit(self);
        for child in self.children() {
            child.walk(visit);
        }
    }

    pub fn children_mut(&mut self) -> Vec<&mut Expr> {
        match &mut self.kind {
            Kind::Literal(_) | Kind::Ident(_) => Vec::new(),
            Kind::Select { operand, .. } => vec![operand],
            Kind::Call { target, args, .. } => target.iter_mut().map(|t| &mut **t).chain(args).collect(),
            Kind::List(elements) => elements.iter_mut().map(|(e, _)| e).collect(),
            Kind::Map(entries) => entries.iter_mut().flat_map(|e| [&mut e.key, &mut e.value]).collect(),
            Kind::Struct { fields, .. } => fields.iter_mut().map(|f| &mut f.value).collect(),
            Kind::Fold(f) => vec![&mut f.range, &mut f.init, &mut f.condition, &mut f.step, &mut f.result],
        }
    }

    pub fn children(&self) -> Vec<&Expr> {
        match &self.kind {
            Kind::Literal(_) | Kind::Ident(_) => Vec::new(),
            Kind::Select { operand, .. } => vec![operand],
            Kind::Call { target, args, .. } => target.iter().map(|t| &**t).chain(args).collect(),
            Kind::List(elements) => elements.iter().map(|(e, _)| e).collect(),
            Kind::Map(entries) => entries.iter().flat_map(|e| [&e.key, &e.value]).collect(),
            Kind::Struct { fields, .. } => fields.iter().map(|f| &f.value).collect(),
            Kind::Fold(f) => vec![&f.range, &f.init, &f.condition, &f.step, &f.result],
        }
    }
}
