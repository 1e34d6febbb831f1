//! The pages of who may do what: roles, bindings, service accounts, signing requests.

use std::collections::BTreeMap;

use base64::Engine as _;
use knarr_core::{Value, ValueExt};

use super::Asker;
use super::page::{Page, date, format_labels, text, texts};
use crate::kubectl::failure::Result;

pub async fn service_account(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.head(object);
    let names: Vec<&str> = object.list_at(&["imagePullSecrets"]).iter().map(|s| text(s, &["name"])).collect();
    if names.is_empty() {
        page.line(0, "Image pull secrets:\t<none>");
    }
    for (i, name) in names.iter().enumerate() {
        page.line(0, format!("{}\t{name}", if i == 0 { "Image pull secrets:" } else { "                   " }));
    }
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

/// One rule as it is shown: resource, URLs, names, verbs.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    group: Option<String>,
    resource: Option<String>,
    urls: Vec<String>,
    names: Vec<String>,
    verbs: Vec<String>,
}

impl Row {
    /// What rows are sorted by: the rule as Go prints it.
    fn key(&self) -> String {
        let one = |value: &Option<String>| value.clone().unwrap_or_default();
        format!(
            "Verbs:[{}],APIGroups:[{}],Resources:[{}],ResourceNames:[{}],NonResourceURLs:[{}],",
            self.verbs.join(" "),
            one(&self.group),
            one(&self.resource),
            self.names.join(" "),
            self.urls.join(" ")
        )
    }

    fn title(&self) -> String {
        let Some(resource) = &self.resource else { return String::new() };
        let (main, sub) = resource.split_once('/').map_or((resource.as_str(), None), |(m, s)| (m, Some(s)));
        let group = self.group.as_deref().filter(|g| !g.is_empty()).map(|g| format!(".{g}")).unwrap_or_default();
        format!("{main}{group}{}", sub.map(|s| format!("/{s}")).unwrap_or_default())
    }
}

/// Rules taken apart, and put together where only verbs differ (`rbac.BreakdownRule`, `rbac.CompactRules`).
fn rows(rules: &[Value]) -> Vec<Row> {
    let mut compact: Vec<Row> = Vec::new();
    let mut simple: BTreeMap<(String, String, Option<String>), usize> = BTreeMap::new();
    for rule in rules {
        let verbs = texts(rule, &["verbs"]);
        for group in texts(rule, &["apiGroups"]) {
            for resource in texts(rule, &["resources"]) {
                let names = texts(rule, &["resourceNames"]);
                let each: Vec<Option<String>> = if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
                for verb in &verbs {
                    for name in &each {
                        let key = (group.clone(), resource.clone(), name.clone());
                        let at = *simple.entry(key).or_insert_with(|| {
                            compact.push(Row {
                                group: Some(group.clone()),
                                resource: Some(resource.clone()),
                                urls: Vec::new(),
                                names: name.iter().cloned().collect(),
                                verbs: Vec::new(),
                            });
                            compact.len() - 1
                        });
                        if !compact[at].verbs.contains(verb) {
                            compact[at].verbs.push(verb.clone());
                        }
                    }
                }
            }
        }
        for url in texts(rule, &["nonResourceURLs"]) {
            compact.extend(verbs.iter().map(|verb| Row { group: None, resource: None, urls: vec![url.clone()], names: Vec::new(), verbs: vec![verb.clone()] }));
        }
    }
    compact.sort_by_key(Row::key);
    compact
}

/// Rows of rules, as `describe` and `auth can-i --list` print them.
pub fn rule_lines(rules: &[Value]) -> Vec<String> {
    let list = |l: &[String]| format!("[{}]", l.join(" "));
    rows(rules).iter().map(|r| format!("{}\t{}\t{}\t{}", r.title(), list(&r.urls), list(&r.names), list(&r.verbs))).collect()
}

pub fn role(object: &Value) -> String {
    let mut page = Page::default();
    page.cluster_head(object);
    page.line(0, "PolicyRule:");
    page.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    page.line(1, "---------\t-----------------\t--------------\t-----");
    rule_lines(object.list_at(&["rules"])).iter().for_each(|l| page.line(1, l));
    page.finish()
}

pub fn binding(object: &Value) -> String {
    let mut page = Page::default();
    page.cluster_head(object);
    page.line(0, "Role:");
    page.field(1, "Kind", text(object, &["roleRef", "kind"]));
    page.field(1, "Name", text(object, &["roleRef", "name"]));
    page.line(0, "Subjects:");
    page.line(1, "Kind\tName\tNamespace");
    page.line(1, "----\t----\t---------");
    object.list_at(&["subjects"]).iter().for_each(|s| page.line(1, format!("{}\t{}\t{}", text(s, &["kind"]), text(s, &["name"]), text(s, &["namespace"]))));
    page.finish()
}

pub async fn signing_request(asker: &Asker<'_>, object: &Value) -> Result<String> {
    let pem = base64::engine::general_purpose::STANDARD.decode(text(object, &["spec", "request"])).unwrap_or_default();
    let request = Request::parse(&pem).ok_or("Error parsing CSR: PEM block type must be CERTIFICATE REQUEST")?;
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Labels", format_labels(object.at(&["metadata", "labels"])));
    page.field(0, "Annotations", format_labels(object.at(&["metadata", "annotations"])));
    page.field(0, "CreationTimestamp", date(object.str_at(&["metadata", "creationTimestamp"])));
    page.field(0, "Requesting User", text(object, &["spec", "username"]));
    page.some(0, "Signer", object.str_at(&["spec", "signerName"]).filter(|s| !s.is_empty()));
    let seconds = object.i64_at(&["spec", "expirationSeconds"]).and_then(|s| u64::try_from(s).ok());
    page.some(0, "Requested Duration", seconds.map(|s| knarr_core::time::human_duration(std::time::Duration::from_secs(s))));
    page.field(0, "Status", request_status(object));
    page.line(0, "Subject:");
    page.field(0, "\tCommon Name", &request.common_name);
    page.field(0, "\tSerial Number", &request.serial);
    for (title, values) in &request.lists {
        if !values.is_empty() {
            page.line(0, format!("\t{title}:\t{}", values.join("\n\t\t")));
        }
    }
    if request.names.iter().any(|(_, v)| !v.is_empty()) {
        page.line(0, "Subject Alternative Names:");
        request.names.iter().filter(|(_, v)| !v.is_empty()).for_each(|(title, values)| page.line(0, format!("\t{title}:\t{}", values.join("\n\t\t"))));
    }
    page.events(asker.events(object).await.as_deref());
    Ok(page.finish())
}

fn request_status(object: &Value) -> String {
    let has = |kind: &str| object.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == kind);
    let mut status = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        status += ",Failed";
    }
    if !text(object, &["status", "certificate"]).is_empty() {
        status += ",Issued";
    }
    status
}

/// What a signing request asks for.
#[derive(Default)]
struct Request {
    common_name: String,
    serial: String,
    lists: Vec<(&'static str, Vec<String>)>,
    names: Vec<(&'static str, Vec<String>)>,
}

impl Request {
    fn parse(pem: &[u8]) -> Option<Self> {
        use x509_parser::prelude::*;
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&block.contents).ok()?;
        let subject = &request.certification_request_info.subject;
        let all = |oid: x509_parser::der_parser::Oid<'static>| -> Vec<String> {
            subject.iter_by_oid(&oid).filter_map(|a| a.as_str().ok()).map(str::to_owned).collect()
        };
        use x509_parser::oid_registry as o;
        let mut found = Self {
            common_name: all(o::OID_X509_COMMON_NAME).pop().unwrap_or_default(),
            serial: all(o::OID_X509_SERIALNUMBER).pop().unwrap_or_default(),
            lists: vec![
                ("Organization", all(o::OID_X509_ORGANIZATION_NAME)),
                ("Organizational Unit", all(o::OID_X509_ORGANIZATIONAL_UNIT)),
                ("Country", all(o::OID_X509_COUNTRY_NAME)),
                ("Locality", all(o::OID_X509_LOCALITY_NAME)),
                ("Province", all(o::OID_X509_STATE_OR_PROVINCE_NAME)),
                ("StreetAddress", all(o::OID_X509_STREET_ADDRESS)),
                ("PostalCode", all(o::OID_X509_POSTAL_CODE)),
            ],
            names: vec![("DNS Names", Vec::new()), ("Email Addresses", Vec::new()), ("URIs", Vec::new()), ("IP Addresses", Vec::new())],
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(n) => found.names[0].1.push((*n).to_owned()),
                    GeneralName::RFC822Name(n) => found.names[1].1.push((*n).to_owned()),
                    GeneralName::URI(n) => found.names[2].1.push((*n).to_owned()),
                    GeneralName::IPAddress(bytes) => {
                        let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
                        let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from));
                        found.names[3].1.extend(address.ok().map(|a| a.to_string()));
                    }
                    _ => {}
                }
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn rules_are_put_together_where_only_verbs_differ() {
        let rules = [
            json!({"apiGroups": ["", "apps"], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}),
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["watch"]}),
            json!({"nonResourceURLs": ["/healthz"], "verbs": ["get"]}),
            json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]}),
        ];
        assert_eq!(
            rule_lines(&rules),
            [
                "pods\t[]\t[]\t[get list watch]",
                "pods/log\t[]\t[]\t[get list]",
                "pods.apps/log\t[]\t[]\t[get list]",
                "pods.apps\t[]\t[]\t[get list]",
                "\t[/healthz]\t[]\t[get]",
                "secrets\t[]\t[a]\t[get]"
            ]
        );
    }
}
