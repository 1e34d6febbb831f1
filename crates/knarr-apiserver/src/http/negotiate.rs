//! Which representation a client accepts, and which one it sends
//! (upstream: `endpoints/handlers/negotiation`, `munnerz/goautoneg`).

use http::{HeaderMap, header};
use knarr_core::{Result, Status};

use super::media_type;

/// An encoding of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Media {
    Json,
    Yaml,
    Protobuf,
    Cbor,
}

/// CBOR is the last: it is offered only behind its gate.
const MEDIA: [(Media, &str, &str); 4] = [
    (Media::Json, "application", "json"),
    (Media::Yaml, "application", "yaml"),
    (Media::Protobuf, "application", "vnd.kubernetes.protobuf"),
    (Media::Cbor, "application", "cbor"),
];

/// Which encodings a server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codecs {
    /// `CBORServingAndStorage` (KEP-4222), which 1.37 leaves off.
    pub cbor: bool,
}

impl Codecs {
    fn media(self) -> &'static [(Media, &'static str, &'static str)] {
        if self.cbor { &MEDIA } else { &MEDIA[..3] }
    }

    fn writable(self) -> &'static str {
        if self.cbor { "application/json, application/yaml, application/vnd.kubernetes.protobuf, application/cbor" } else { WRITABLE }
    }

    fn streamable(self) -> &'static str {
        if self.cbor { "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch, application/cbor-seq" } else { STREAMABLE }
    }
}

impl Media {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
            Self::Cbor => "application/cbor",
        }
    }

    /// The content type of a watch.
    pub fn stream_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Self::Cbor => "application/cbor-seq",
            _ => "application/json",
        }
    }
}

/// A wish to get something else than the object itself (`as=…;v=…;g=…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Convert {
    Table,
    PartialMetadata,
    PartialMetadataList,
    /// `APIGroupDiscoveryList` of `apidiscovery.k8s.io`.
    Discovery,
}

/// Which conversions an endpoint offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offers {
    /// Objects as they are.
    Plain,
    /// Metadata beside the objects, tables of what is kept (not of reviews); no protobuf of custom resources.
    Resource { custom: bool, tables: bool },
    /// Aggregated discovery beside the classic one.
    Discovery,
}

/// Who looks at the `Accept` header before a handler does. Upstream's router knows the media types of its routes and nothing of
/// their parameters, and refuses in words of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Router {
    Restful,
    /// The path has no such router: definitions' and aggregated groups.
    None,
}

/// The outcome: how the answer is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub media: Media,
    pub pretty: bool,
    pub convert: Option<Convert>,
    /// `v` of the conversion: `v1`, `v1beta1`, `v2`.
    pub version: &'static str,
}

impl Accepted {
    pub const JSON: Self = Self { media: Media::Json, pretty: false, convert: None, version: "v1" };
}

pub(super) struct Clause<'a> {
    media_type: &'a str,
    subtype: &'a str,
    quality: f32,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (media_type, subtype) = match parts.next()?.split_once('/') {
            Some((t, s)) => (t.trim(), s.trim()),
            None => return None,
        };
        let mut clause = Self { media_type, subtype, quality: 1.0, params: Vec::new() };
        for (key, value) in parts.filter_map(|p| p.split_once('=')) {
            match key.trim() {
                "q" => clause.quality = value.trim().parse().unwrap_or(1.0),
                key => clause.params.push((key, value.trim().trim_matches('"'))),
            }
        }
        Some(clause)
    }

    /// The clauses of a header, the most wanted first.
    pub(super) fn all(header: &'a str) -> Vec<Self> {
        let mut clauses: Vec<Self> = header.split(',').filter_map(Self::parse).collect();
        clauses.sort_by_key(Self::rank);
        clauses
    }

    pub(super) fn covers(&self, media_type: &str, subtype: &str) -> bool {
        (self.media_type == media_type || self.media_type == "*" && self.subtype == "*") && (self.subtype == subtype || self.subtype == "*")
    }

    /// Wildcards come after what is named.
    fn rank(&self) -> (std::cmp::Reverse<u32>, bool, bool) {
        (std::cmp::Reverse((self.quality * 1000.0) as u32), self.media_type == "*", self.subtype == "*")
    }

    pub(super) fn param(&self, key: &str) -> &str {
        self.params.iter().find(|(k, _)| *k == key).map_or("", |(_, v)| v)
    }

    fn accept(&self, media: Media, offers: Offers) -> Option<Accepted> {
        if !matches!(self.param("stream"), "" | "watch") || !self.param("sv").is_empty() {
            return None;
        }
        let (convert, version) = self.conversion(media, offers)?;
        Some(Accepted { media, pretty: self.param("pretty") == "1", convert, version })
    }

    /// `None`: this clause wants something that is not offered.
    fn conversion(&self, media: Media, offers: Offers) -> Option<(Option<Convert>, &'static str)> {
        let (kind, group, version) = (self.param("as"), self.param("g"), self.param("v"));
        if kind.is_empty() && group.is_empty() && version.is_empty() {
            let protobuf_of_custom = media == Media::Protobuf && matches!(offers, Offers::Resource { custom: true, .. });
            return (!protobuf_of_custom).then_some((None, "v1"));
        }
        match (offers, group, kind) {
            (Offers::Resource { tables, .. }, "meta.k8s.io", _) => {
                let version = ["v1", "v1beta1"].into_iter().find(|v| *v == version)?;
                match kind {
                    "Table" if tables && matches!(media, Media::Json | Media::Yaml) => Some((Some(Convert::Table), version)),
                    "PartialObjectMetadata" => Some((Some(Convert::PartialMetadata), version)),
                    "PartialObjectMetadataList" => Some((Some(Convert::PartialMetadataList), version)),
                    _ => None,
                }
            }
            (Offers::Discovery, "apidiscovery.k8s.io", "APIGroupDiscoveryList") if media != Media::Yaml && version == "v2" => {
                Some((Some(Convert::Discovery), "v2"))
            }
            _ => None,
        }
    }
}

const WRITABLE: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const STREAMABLE: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// Chooses how to write the answer. `streams` tells that the route is that of lists, which watches share.
///
/// # Errors
/// 406 when nothing that the client accepts is offered.
pub fn accept(codecs: Codecs, headers: &HeaderMap, raw_query: &str, offers: Offers, streams: bool, router: Router) -> Result<Accepted> {
    let wanted = wanted(headers);
    let mut found = match wanted {
        "" | "*/*" | "application/json" => Accepted::JSON,
        "application/vnd.kubernetes.protobuf" if !matches!(offers, Offers::Resource { custom: true, .. }) => {
            Accepted { media: Media::Protobuf, ..Accepted::JSON }
        }
        _ => {
            if router == Router::Restful {
                let streams = if streams { [", ", codecs.streamable()] } else { ["", ""] };
                route(headers, &format!("{}{}", codecs.writable(), streams.concat()))?;
            }
            choose(codecs, wanted, offers).ok_or_else(|| not_acceptable(codecs.writable()))?
        }
    };
    found.pretty |= wants_pretty(headers, raw_query);
    Ok(found)
}

/// A watch that has begun is sent in what can be framed (upstream: `NegotiateOutputMediaTypeStream`).
///
/// # Errors
/// 406 when the client wants it otherwise.
pub fn framed(codecs: Codecs, accepted: &Accepted) -> Result<()> {
    if accepted.media == Media::Yaml { Err(not_acceptable(codecs.streamable())) } else { Ok(()) }
}

fn wanted(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// 406 of a handler.
pub(super) fn not_acceptable(offered: &str) -> Status {
    Status::not_acceptable(format!("only the following media types are accepted: {offered}"))
}

/// The router's look at the header: whether any of it names a media type of the route, whatever its parameters
/// (upstream: go-restful's `Route.matchesAccept`). A part of a type it does not know (`application/*`).
///
/// # Errors
/// 406 in the router's words.
pub(super) fn route(headers: &HeaderMap, produced: &str) -> Result<()> {
    let wanted = wanted(headers);
    let named = |clause: &str| {
        let essence = clause.split(';').next().unwrap_or_default().trim();
        essence == "*/*" || produced.split(", ").any(|p| p == essence)
    };
    if wanted.is_empty() || wanted.split(',').any(named) {
        return Ok(());
    }
    Err(Status::not_acceptable(format!("406: Not Acceptable\n\nAvailable representations: {produced}")).with_details(Default::default()))
}

/// 415 of a patch: the router answers it and says no more.
pub fn unsupported_patch() -> Status {
    Status::unsupported_media_type("415: Unsupported Media Type").with_details(Default::default())
}

fn choose(codecs: Codecs, header: &str, offers: Offers) -> Option<Accepted> {
    Clause::all(header).iter().find_map(|clause| {
        let covered = codecs.media().iter().filter(|(_, t, s)| clause.covers(t, s));
        covered.into_iter().find_map(|(media, ..)| clause.accept(*media, offers))
    })
}

fn wants_pretty(headers: &HeaderMap, raw_query: &str) -> bool {
    if raw_query.contains("pretty") {
        let value = raw_query.split('&').find_map(|p| p.strip_prefix("pretty="));
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            return matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True");
        }
    }
    let agent = headers.get(header::USER_AGENT).map_or(&b""[..], |v| v.as_bytes());
    [&b"curl"[..], b"Wget", b"Mozilla/5.0"].iter().any(|human| agent.starts_with(human))
}

/// The encoding of a request's body; JSON when the client names none.
///
/// # Errors
/// 415 for an encoding that is not understood.
pub fn content_media(codecs: Codecs, headers: &HeaderMap) -> Result<Media> {
    let header = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if header.is_empty() {
        return Ok(Media::Json);
    }
    let unknown = || unsupported(codecs.writable());
    let essence = media_type::parse(header).ok_or_else(unknown)?;
    codecs.media().iter().map(|(m, ..)| *m).find(|m| m.content_type() == essence).ok_or_else(unknown)
}

/// The content type without its parameters.
pub fn content_essence(headers: &HeaderMap) -> &str {
    let header = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    header.split(';').next().unwrap_or_default().trim()
}

/// 415 with the list of what would do.
pub fn unsupported(accepted: &str) -> Status {
    Status::unsupported_media_type(format!("the body of the request was in an unknown format - accepted media types include: {accepted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, offers: Offers, wanted: &str) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, header.parse().unwrap());
        let got = match accept(Codecs::default(), &headers, "", offers, false, Router::Restful) {
            Ok(a) => format!("{:?} {:?} {}", a.media, a.convert, a.version),
            Err(e) => e.code.to_string(),
        };
        assert_eq!(got, wanted, "{header}");
    }

    #[test]
    fn cbor_is_there_behind_its_gate() {
        let codecs = Codecs { cbor: true };
        let got = |header: &str, offers: Offers| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, header.parse().unwrap())]);
            accept(codecs, &headers, "", offers, true, Router::Restful).map_err(|refused| refused.message)
        };
        let cbor = Accepted { media: Media::Cbor, ..Accepted::JSON };
        assert_eq!(got("application/cbor", BUILTIN), Ok(cbor.clone()));
        assert_eq!(got("application/cbor, application/json;q=0.9", CUSTOM), Ok(cbor.clone()));
        assert_eq!(got("application/cbor;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", BUILTIN).unwrap().convert, Some(Convert::PartialMetadata));
        assert_eq!(got("application/cbor;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", Offers::Discovery).unwrap().media, Media::Cbor);
        let writable = "application/json, application/yaml, application/vnd.kubernetes.protobuf, application/cbor";
        assert_eq!(got("application/cbor;as=Table;g=meta.k8s.io;v=v1", BUILTIN), Err(format!("only the following media types are accepted: {writable}")));
        assert_eq!(got("application/cbor-seq", BUILTIN), Err(format!("only the following media types are accepted: {writable}")));
        let streamable = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch, application/cbor-seq";
        assert_eq!(got("text/html", BUILTIN), Err(format!("406: Not Acceptable\n\nAvailable representations: {writable}, {streamable}")));
        assert_eq!(framed(codecs, &cbor), Ok(()));
        assert_eq!(cbor.media.stream_type(), "application/cbor-seq");
        let sent = HeaderMap::from_iter([(header::CONTENT_TYPE, "application/cbor".parse().unwrap())]);
        assert_eq!(content_media(codecs, &sent), Ok(Media::Cbor));
        assert_eq!(content_media(Codecs::default(), &sent).unwrap_err().code, 415);
    }

    const BUILTIN: Offers = Offers::Resource { custom: false, tables: true };
    const CUSTOM: Offers = Offers::Resource { custom: true, tables: true };

    #[test]
    fn the_router_refuses_types_and_the_handler_their_parameters() {
        let refusal = |header: &str, streams: bool, router: Router| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, header.parse().unwrap())]);
            accept(Codecs::default(), &headers, "", BUILTIN, streams, router).unwrap_err()
        };
        let router = refusal("text/html", false, Router::Restful);
        assert_eq!(router.message, format!("406: Not Acceptable\n\nAvailable representations: {WRITABLE}"));
        assert!(router.details.is_some());
        let handler = refusal("text/html", false, Router::None);
        assert_eq!((handler.message, handler.details), (format!("only the following media types are accepted: {WRITABLE}"), None));
        let parameters = refusal("application/json;as=Nothing;g=meta.k8s.io;v=v1", false, Router::Restful);
        assert_eq!(parameters.message, format!("only the following media types are accepted: {WRITABLE}"));
        assert_eq!(refusal("text/html", true, Router::Restful).message, format!("{}, {STREAMABLE}", router.message));
        let yaml = Accepted { media: Media::Yaml, ..Accepted::JSON };
        assert_eq!(framed(Codecs::default(), &yaml).unwrap_err().message, format!("only the following media types are accepted: {STREAMABLE}"));
        assert_eq!(refusal("application/*", false, Router::Restful).message, router.message);
    }

    #[test]
    fn the_best_offered_representation_is_chosen() {
        check("application/json", BUILTIN, "Json None v1");
        check("text/html, */*;q=0.8", BUILTIN, "Json None v1");
        check("application/vnd.kubernetes.protobuf,application/json", BUILTIN, "Protobuf None v1");
        check("application/vnd.kubernetes.protobuf,application/json", CUSTOM, "Json None v1");
        check("application/vnd.kubernetes.protobuf", CUSTOM, "406");
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            BUILTIN,
            "Json Some(Table) v1",
        );
        check("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", BUILTIN, "406");
        check("application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", BUILTIN, "Protobuf Some(PartialMetadataList) v1");
        check("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json", Offers::Discovery, "Json Some(Discovery) v2");
        check("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList", Offers::Discovery, "406");
        check("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json", Offers::Plain, "Json None v1");
        check("application/cbor", BUILTIN, "406");
        check("application/json;q=0.1, application/yaml", BUILTIN, "Yaml None v1");
    }
}
