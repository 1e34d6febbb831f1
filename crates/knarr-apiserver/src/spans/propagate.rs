//! How a trace travels in headers: W3C Trace Context and Baggage (upstream: `tracing.Propagators`).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{CURRENT, SpanContext};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// The only flag there is.
const SAMPLED: u8 = 1;

/// What the sender of a request traces, and its baggage; nothing when it traces nothing.
pub fn extract(headers: &HeaderMap) -> Option<(SpanContext, Option<HeaderValue>)> {
    let mut at = parse(headers.get(TRACEPARENT)?.to_str().ok()?)?;
    at.state = headers.get(TRACESTATE).and_then(|s| s.to_str().ok()).unwrap_or_default().to_owned();
    Some((at, headers.get(BAGGAGE).cloned()))
}

/// Tells the receiver of a request what this task traces.
pub fn inject(headers: &mut HeaderMap) {
    let told = CURRENT.try_with(|context| (context.at.clone(), context.baggage.clone()));
    let Some((at, baggage)) = told.ok().filter(|(at, _)| at.is_valid()) else { return };
    let text = format!("00-{}-{}-{:02x}", knarr_core::hex::encode(at.trace), knarr_core::hex::encode(at.span), u8::from(at.sampled) * SAMPLED);
    let state = (!at.state.is_empty()).then(|| HeaderValue::try_from(at.state).ok()).flatten();
    for (name, value) in [(TRACEPARENT, HeaderValue::try_from(text).ok()), (TRACESTATE, state), (BAGGAGE, baggage)] {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

/// `00-<trace id>-<span id>-<flags>`; later versions may say more at the end.
fn parse(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let [version] = bytes::<1>(version)?;
    let more = parts.next().is_some();
    if version == u8::MAX || (version == 0 && more) {
        return None;
    }
    let [flags] = bytes::<1>(flags)?;
    let at = SpanContext { trace: bytes(trace)?, span: bytes(span)?, sampled: flags & SAMPLED != 0, state: String::new() };
    at.is_valid().then_some(at)
}

/// Lower case only, and of the very length.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let check = |text: String, wanted: Option<bool>| assert_eq!(parse(&text).map(|c| c.sampled), wanted, "{text}");
        check(format!("00-{trace}-b7ad6b7169203331-01"), Some(true));
        check(format!("00-{trace}-b7ad6b7169203331-00"), Some(false));
        check(format!("cc-{trace}-b7ad6b7169203331-01-what-comes-later"), Some(true));
        check(format!("00-{trace}-b7ad6b7169203331-01-more"), None);
        check(format!("ff-{trace}-b7ad6b7169203331-01"), None);
        check(format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()), None);
        check(format!("00-{trace}-b7ad6b71692033-01"), None);
        check(format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), None);
        check(format!("00-{trace}-0000000000000000-01"), None);
        check(String::new(), None);
    }
}
