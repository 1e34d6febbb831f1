use std::sync::Arc;

use serde_json::json;

use crate::{Env, Value, compile, env::NoTypes, types::Type};

fn env() -> Env {
    Env::new([("x", Type::Dyn), ("n", Type::Int), ("s", Type::String)], Arc::new(NoTypes))
}

/// The value of an expression as JSON, or what went wrong.
fn eval(source: &str) -> Result<serde_json::Value, String> {
    let x = json!({"a": [1, 2, 3], "m": {"k": "v", "in": 1}, "f": 1.5, "n": null, "name": "pod-1"});
    let program = compile(source, &env())?;
    let vars = [("x", Value::plain(&x)), ("n", Value::Int(7)), ("s", Value::text("text"))];
    program.eval(&vars, None, crate::PER_CALL_LIMIT).value.and_then(|v| v.to_json()).map_err(|e| e.message)
}

#[track_caller]
fn holds(sources: &[&str]) {
    for source in sources {
        assert_eq!(eval(source), Ok(json!(true)), "{source}");
    }
}

#[track_caller]
fn fails(source: &str, why: &str) {
    assert_eq!(eval(source), Err(why.to_owned()), "{source}");
}

#[test]
fn operators() {
    holds(&[
        "1 + 2 * 3 == 7 && 10 / 3 == 3 && 10 % 3 == 1 && -(-5) == 5 && !!true",
        "1 < 2u && 2.5 > 2 && 'a' < 'b' && b'a' < b'b' && 1 == dyn(1.0) && 'a' != 'b'",
        "'a' in ['a', 'b'] && !(3 in [1, 2]) && 'k' in {'k': 1} && 'm' in x && 'in' in x.m",
        "(true ? 1 : 2) == 1 && [1, 2] + [3] == [1, 2, 3] && {'a': 1}['a'] == 1 && [1, 2][1] == 2",
        "false && (1 / 0 == 1) || true && (true || 1 / 0 == 1)",
        "r'\\d' == '\\\\d' && '\\u0041' == 'A' && b'\\x41' == b'A' && '''it's''' == \"it's\"",
        "type(1) == int && type(1) != type('') && type(type(1)) == type && type(x.f) == double",
        "size('h\u{e9}llo') == 5 && 'ab'.size() == 2 && [1].size() == 1 && size(x.m) == 2",
        "int('7') == 7 && double(1) == 1.0 && string(1.5) == '1.5' && uint(3) == 3u && bool('true') && string(b'a') == 'a'",
        "x.a[0] == 1 && x['a'][2] == 3 && x.m.k == 'v' && x.m.in == 1 && has(x.m.k) && !has(x.m.z) && x.n == null",
        "0x10 == 16 && 1e3 == 1000.0 && -9223372036854775808 < 0 && 1 - 1 == 0 && 1 -1 == 0",
    ]);
    fails("1 / 0", "division by zero");
    fails("9223372036854775807 + 1", "integer overflow");
    fails("x.z", "no such key: z");
    fails("x.a[3]", "index out of bounds: 3");
    fails("dyn('a') + dyn(1)", "no such overload");
}

#[test]
fn macros() {
    holds(&[
        "[1, 2, 3].all(i, i > 0) && [1, 2].exists(i, i == 2) && [1, 2, 2].exists_one(i, i == 1) && ![2, 2].existsOne(i, i == 2)",
        "[1, 2].map(i, i * 2) == [2, 4] && [1, 2, 3].map(i, i > 1, i * 2) == [4, 6] && [1, 2].filter(i, i > 1) == [2]",
        "x.m.all(k, k.size() > 0) && {'a': 1}.exists(k, k == 'a')",
        "[5, 6].all(i, v, v == i + 5) && {'a': 1}.exists(k, v, k == 'a' && v == 1) && [1, 1].existsOne(i, v, i == 1)",
        "[5, 6].transformList(i, v, i + v) == [5, 7] && {'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "['a', 'b'].transformMapEntry(i, v, {v: i}) == {'a': 0, 'b': 1} && [1, 2].transformList(i, v, v > 1, v) == [2]",
        "[1, 0].exists(i, 1 / i == 1) && [0, 1].exists(i, 1 / i == 1)",
        "optional.of(1).optMap(v, v + 1).value() == 2 && !optional.none().hasValue() && x.?z.orValue('d') == 'd'",
        "x.?m.?k.value() == 'v' && x.m[?'k'].hasValue() && [1][?3].orValue(9) == 9 && [?x.?z, dyn(1)] == [1] && {?'z': x.?z} == {}",
        "optional.none().or(optional.of(2)).value() == 2 && has(x.?m.k) && [3, 1, 2].sortBy(e, -e) == [3, 2, 1]",
    ]);
}

#[test]
fn libraries() {
    holds(&[
        "'Hello'.lowerAscii() == 'hello' && 'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b' && ' a '.trim() == 'a'",
        "'hello'.substring(1, 3) == 'el' && 'hello'.replace('l', 'L', 1) == 'heLlo' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3",
        "'hello'.charAt(1) == 'e' && 'abc'.matches('^a.c$') && 'a1b22'.findAll('[0-9]+') == ['1', '22'] && 'a1'.find('[0-9]') == '1'",
        "'%s is %d and %.2f, %x %s'.format(['a', 3, 1234.5, 255, [1, 'b']]) == 'a is 3 and 1,234.50, ff [1, \"b\"]'",
        "[1, 2, 3].sum() == 6 && [1, 3].max() == 3 && [2, 1].min() == 1 && [1, 2].isSorted() && [1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2",
        "[[1], [2]].flatten(1) == [1, 2] && lists.range(3) == [0, 1, 2] && [1, 2].reverse() == [2, 1] && [1, 1].distinct() == [1] && [2, 1].sort() == [1, 2]",
        "[1, 2, 3].slice(1, 2) == [2] && [1].includes(1) && [1, 2].first().value() == 1 && [1, 2].last().value() == 2",
        "sets.contains([1, 2], [1]) && sets.equivalent([1, 1], [1]) && sets.intersects([1], [1, 2])",
        "url('https://h:80/p?a=b').getHostname() == 'h' && url('https://h:80/p').getPort() == '80' && isURL('https://x') && !isURL('x y')",
        "url('https://[::1]:80/a b?x=1&x=2').getEscapedPath() == '/a%20b' && url('https://h/?x=1&x=2').getQuery() == {'x': ['1', '2']}",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR(cidr('10.1.0.0/16'))",
        "string(cidr('10.1.2.3/8').masked()) == '10.0.0.0/8' && ip('127.0.0.1').isLoopback() && !ip('255.255.255.255').isGlobalUnicast() && cidr('10.0.0.0/8').prefixLength() == 8",
        "quantity('1Ki').compareTo(quantity('1024')) == 0 && quantity('1').add(1).asInteger() == 2 && isQuantity('1Gi') && quantity('50k').isLessThan(quantity('50M'))",
        "semver('1.2.3').major() == 1 && semver('1.2.3-a').isLessThan(semver('1.2.3')) && isSemver('v1.2', true) && !isSemver('1.2')",
        "format.dns1123Label().validate('ab').hasValue() == false && format.named('uuid').value().validate('x').value().size() == 1",
        "timestamp('2024-02-03T04:05:06Z').getFullYear() == 2024 && timestamp('2024-02-03T04:05:06Z').getHours('+02:00') == 6",
        "timestamp('2024-02-03T04:05:06Z') - timestamp('2024-02-03T04:05:05Z') == duration('1s') && duration('90s').getMinutes() == 1",
        "timestamp('2024-07-01T12:00:00Z').getHours('Europe/Berlin') == 14 && string(duration('1h30m')) == '5400s'",
    ]);
}

#[test]
fn what_is_wrong_is_shown_with_its_place() {
    let shown = |source: &str| compile(source, &env()).unwrap_err();
    assert_eq!(shown("foo.bar == 1"), "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo.bar == 1\n | ^");
    assert_eq!(shown("n + 'a'"), "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | n + 'a'\n | ..^");
    assert_eq!(shown("s.nope()"), "ERROR: <input>:1:7: undeclared reference to 'nope' (in container '')\n | s.nope()\n | ......^");
    assert_eq!(shown("n.foo"), "ERROR: <input>:1:2: type 'int' does not support field selection\n | n.foo\n | .^");
    assert_eq!(shown("n && true"), "ERROR: <input>:1:1: expected type 'bool' but found 'int'\n | n && true\n | ^");
    assert_eq!(shown("[1, 'a']"), "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^");
    assert!(shown("1 +").starts_with("ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(',"));
    assert_eq!(shown("s.matches('(')"), "ERROR: <input>:1:11: invalid matches argument\n | s.matches('(')\n | ..........^");
}

#[test]
fn costs_are_those_of_upstream() {
    let cost = |source: &str| {
        let data = json!({"a": [1, 2, 3], "s": "0123456789"});
        compile(source, &env()).unwrap().eval(&[("x", Value::plain(&data)), ("n", Value::Int(1)), ("s", Value::text("0123456789"))], None, 1 << 30).cost
    };
    assert_eq!(cost("n == 1"), 2);
    assert_eq!(cost("x.s == 'a'"), 3);
    assert_eq!(cost("has(x.s)"), 1);
    assert_eq!(cost("s.startsWith('0123456789')"), 2);
    assert_eq!(cost("s in ['a', 'b']"), 1);
    assert_eq!(cost("x.a.all(i, i > 0)"), 2 + 3 * (2 + 1 + 2) + 1);
}

#[test]
fn what_is_too_expensive_ends() {
    let program = compile("x.all(a, x.all(b, x.all(c, a + b + c >= 0)))", &env()).unwrap();
    let data = json!((0..1000).collect::<Vec<_>>());
    let outcome = program.eval(&[("x", Value::plain(&data))], None, 10_000);
    assert_eq!(outcome.value.unwrap_err().message, "operation cancelled: actual cost limit exceeded");
    assert!(outcome.cost < 11_000);
}

#[test]
fn depth_is_limited() {
    let deep = format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(compile(&deep, &env()).unwrap_err().contains("recursion limit"));
    let chain = vec!["n"; 5000].join(" + ");
    assert!(compile(&chain, &env()).unwrap_err().contains("recursion limit"));
    let chain = vec!["n"; 240].join(" + ");
    assert!(compile(&chain, &env()).is_ok());
    let long = vec!["true"; 5000].join(" && ");
    assert!(compile(&long, &env()).is_ok());
}
