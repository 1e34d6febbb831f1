//! Which objects a command line means: types, names, selectors, files (`k8s.io/cli-runtime/pkg/resource.Builder`).

use knarr_core::field::go_quote;
use knarr_core::selector::LabelSelector;
use knarr_core::{Value, ValueExt};

use super::failure::{Failure, Result};
use super::flags::Flags;
use super::manifest;
use super::resources::{Meant, find, find_all, of_kind};
use super::session::{Query, Session, with_query};

/// An object, and where it was found or belongs.
#[derive(Clone, Debug)]
pub struct Info {
    pub meant: Meant,
    /// Empty for what is cluster-scoped.
    pub namespace: String,
    pub name: String,
    pub object: Value,
    /// The file it came from.
    pub source: String,
}

impl Info {
    pub fn path(&self) -> String {
        self.meant.path(Some(&self.namespace), Some(&self.name))
    }

    /// `deployment.apps/web`
    pub fn title(&self) -> String {
        format!("{}/{}", self.meant.title, self.name)
    }

    /// `deployments/web`, as some verbs name what they speak of.
    pub fn plural_name(&self) -> String {
        format!("{}/{}", self.meant.resource.resource, self.name)
    }

    /// An object that the server gave.
    pub fn of(meant: &Meant, object: Value) -> Self {
        let text = |key: &str| object.str_at(&["metadata", key]).unwrap_or_default().to_owned();
        Self { meant: meant.clone(), namespace: text("namespace"), name: text("name"), source: String::new(), object }
    }
}

/// What is meant, before anything is fetched.
#[derive(Clone, Debug)]
pub enum Target {
    One {
        meant: Meant,
        namespace: String,
        name: String,
    },
    /// All that fit the selectors; no namespace means all of them.
    Many {
        meant: Meant,
        namespace: Option<String>,
    },
    File(Box<Info>),
}

impl Target {
    pub fn meant(&self) -> &Meant {
        match self {
            Self::One { meant, .. } | Self::Many { meant, .. } => meant,
            Self::File(info) => &info.meant,
        }
    }

    pub fn path(&self) -> String {
        match self {
            Self::One { meant, namespace, name } => meant.path(Some(namespace), Some(name)),
            Self::Many { meant, namespace } => meant.path(namespace.as_deref(), None),
            Self::File(info) => info.path(),
        }
    }
}

/// What was found, what failed on the way, and whether a single object was asked for.
#[derive(Default)]
pub struct Found {
    pub infos: Vec<Info>,
    pub failures: Vec<Failure>,
    pub single: bool,
}

impl Found {
    /// The objects, unless something failed.
    pub fn all(self) -> Result<Vec<Info>> {
        Failure::all(self.failures)?;
        Ok(self.infos)
    }
}

/// How a verb chooses.
pub struct Selection<'a> {
    pub session: &'a Session,
    pub all_namespaces: bool,
    pub labels: Option<String>,
    pub fields: Option<String>,
    /// `--all`
    pub everything: bool,
    /// A type alone means all of it.
    pub type_is_all: bool,
    pub subresource: Option<String>,
    /// Objects of files are asked of the server.
    pub latest: bool,
    pub chunk: i64,
    flags: &'a Flags,
}

impl<'a> Selection<'a> {
    /// What the usual flags say.
    pub fn of(session: &'a Session, flags: &'a Flags) -> Self {
        Self {
            session,
            all_namespaces: flags.on("all-namespaces"),
            labels: flags.some("selector").map(str::to_owned),
            fields: flags.some("field-selector").map(str::to_owned),
            everything: flags.on("all"),
            type_is_all: false,
            subresource: flags.some("subresource").map(str::to_owned),
            latest: true,
            chunk: 500,
            flags,
        }
    }

    #[must_use]
    pub fn type_is_all(self) -> Self {
        Self { type_is_all: true, ..self }
    }

    #[must_use]
    pub fn as_in_files(self) -> Self {
        Self { latest: false, ..self }
    }

    fn namespace(&self) -> Result<String> {
        if self.all_namespaces {
            return Err("a resource cannot be retrieved by name across all namespaces".into());
        }
        Ok(self.session.namespace.clone())
    }

    async fn one(&self, kind: &str, name: &str) -> Result<Target> {
        let meant = find(self.session, kind).await?;
        let namespace = if meant.namespaced { self.namespace()? } else { String::new() };
        Ok(Target::One { meant, namespace, name: name.to_owned() })
    }

    /// What the words and flags name. The second says whether it is a single object.
    pub async fn targets(&self, words: &[String]) -> Result<(Vec<Target>, bool)> {
        let words = normalized(words);
        let slashes = words.iter().filter(|w| w.contains('/')).count();
        if slashes > 0 && slashes != words.len() {
            let own = super::program_name();
            return Err(format!("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. '{own} get resource/<resource_name>' instead of '{own} get resource resource/<resource_name>'").into());
        }
        if manifest::named(self.flags) {
            return self.files(&words).await;
        }
        let pairs = words.iter().filter(|w| w.contains('/')).map(|w| pair(w)).collect::<Result<Vec<_>>>()?;
        let selecting = self.labels.is_some() || self.fields.is_some() || self.everything;
        match words.as_slice() {
            [] if selecting => Err("at least one resource must be specified to use a selector".into()),
            [] => Err(missing()),
            [_, ..] if !pairs.is_empty() => {
                if selecting {
                    return Err("selectors and the all flag cannot be used when passing resource/name arguments".into());
                }
                let mut found = Vec::new();
                for (kind, name) in &pairs {
                    found.push(self.one(kind, name).await?);
                }
                let single = found.len() == 1;
                Ok((found, single))
            }
            [types] if selecting || self.type_is_all => self.many(types).await,
            [types] => {
                find_all(self.session, types).await?;
                Err("resource(s) were provided, but no name was specified".into())
            }
            [_, _, ..] if selecting => Err("name cannot be provided when a selector is specified".into()),
            [kind, names @ ..] => {
                if find_all(self.session, kind).await?.len() > 1 {
                    return Err("you must specify only one resource".into());
                }
                let mut found = Vec::new();
                for name in names {
                    found.push(self.one(kind, name).await?);
                }
                let single = found.len() == 1;
                Ok((found, single))
            }
        }
    }

    async fn many(&self, types: &str) -> Result<(Vec<Target>, bool)> {
        if self.subresource.is_some() {
            return Err("subresource cannot be used when bulk resources are specified".into());
        }
        if let Some(labels) = &self.labels {
            LabelSelector::parse(labels)?;
        }
        let namespace = (!self.all_namespaces).then(|| self.session.namespace.clone());
        let found = find_all(self.session, types).await?;
        Ok((found.into_iter().map(|meant| Target::Many { namespace: namespace.clone().filter(|_| meant.namespaced), meant }).collect(), false))
    }

    async fn files(&self, words: &[String]) -> Result<(Vec<Target>, bool)> {
        if !words.is_empty() {
            return Err("when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well".into());
        }
        let (objects, failures) = manifest::read(self.flags).await;
        Failure::all(failures)?;
        let selector = self.labels.as_deref().map(LabelSelector::parse).transpose()?;
        let mut found = Vec::new();
        for read in objects {
            let info = self.place(read).await?;
            if selector.as_ref().is_none_or(|s| s.matches(info.object.at(&["metadata", "labels"]))) {
                found.push(Target::File(Box::new(info)));
            }
        }
        let single = found.len() == 1;
        Ok((found, single))
    }

    /// Where an object of a file belongs.
    pub async fn place(&self, read: manifest::Read1) -> Result<Info> {
        place(self.session, read).await
    }

    /// The query of a list.
    pub fn query(&self) -> Query {
        let mut query = Query::new();
        query.extend(self.labels.clone().map(|l| ("labelSelector", l)));
        query.extend(self.fields.clone().map(|f| ("fieldSelector", f)));
        query
    }

    /// The objects themselves. What fails with one of them does not keep the others back.
    pub async fn objects(&self, words: &[String]) -> Result<Found> {
        let (targets, single) = self.targets(words).await?;
        let mut found = Found { single, ..Found::default() };
        for target in targets {
            match self.fetch(&target).await {
                Ok(infos) => found.infos.extend(infos),
                Err(failure) => found.failures.push(failure),
            }
        }
        Ok(found)
    }

    async fn fetch(&self, target: &Target) -> Result<Vec<Info>> {
        match target {
            Target::File(info) if !self.latest => Ok(vec![(**info).clone()]),
            Target::File(info) => {
                let object = self.session.get(&info.path()).await?;
                Ok(vec![Info { object, ..(**info).clone() }])
            }
            Target::One { meant, .. } => {
                let path = self.subresource.as_ref().map_or_else(|| target.path(), |s| format!("{}/{s}", target.path()));
                let mut info = Info::of(meant, self.session.get(&path).await?);
                if let Target::One { namespace, name, .. } = target {
                    info.namespace.clone_from(namespace);
                    info.name.clone_from(name);
                }
                Ok(vec![info])
            }
            Target::Many { meant, .. } => {
                let mut infos = Vec::new();
                let mut token = None;
                loop {
                    let list = self.page(target, token.take()).await?;
                    let api_version = meant.api_version();
                    infos.extend(list.list_at(&["items"]).iter().map(|item| Info::of(meant, with_kind(item, &api_version, &meant.kind))));
                    token = list.str_at(&["metadata", "continue"]).filter(|c| !c.is_empty()).map(str::to_owned);
                    if token.is_none() {
                        return Ok(infos);
                    }
                }
            }
        }
    }

    async fn page(&self, target: &Target, token: Option<String>) -> Result<Value> {
        let path = self.page_path(target, token);
        self.session.get(&path).await.map_err(|e| self.explain(target, e))
    }

    /// Says which selectors the server would not take (`EnhanceListError`).
    pub fn explain(&self, target: &Target, failure: Failure) -> Failure {
        match failure {
            Failure::Server(mut status) if status.code == 400 || status.code == 404 => {
                let subject = target.meant().resource.clone();
                let subject = format!("{}/{}, Resource={}", subject.group, subject.version, subject.resource);
                if self.labels.as_deref().unwrap_or_default().is_empty() && self.fields.as_deref().unwrap_or_default().is_empty() {
                    status.message = format!("Unable to list {}: {}", go_quote(&subject), status.message);
                } else {
                    let text = |s: &Option<String>| go_quote(s.as_deref().unwrap_or_default());
                    status.message = format!(
                        "Unable to find {} that match label selector {}, field selector {}: {}",
                        go_quote(&subject),
                        text(&self.labels),
                        text(&self.fields),
                        status.message
                    );
                }
                Failure::Server(status)
            }
            other => other,
        }
    }

    /// The path of one page of a list.
    pub fn page_path(&self, target: &Target, token: Option<String>) -> String {
        let mut query = self.query();
        if self.chunk > 0 {
            query.push(("limit", self.chunk.to_string()));
        }
        query.extend(token.map(|t| ("continue", t)));
        with_query(&target.path(), &query)
    }
}

/// Where an object of a file belongs.
pub async fn place(session: &Session, read: manifest::Read1) -> Result<Info> {
    let manifest::Read1 { source, mut object } = read;
    let text = |path: &[&str]| object.str_at(path).unwrap_or_default().to_owned();
    let (name, own) = (text(&["metadata", "name"]), text(&["metadata", "namespace"]));
    let meant = of_kind(session, &text(&["apiVersion"]), &text(&["kind"])).await.map_err(|e| match e {
        Failure::Other(why) => Failure::Other(format!(
            "resource mapping not found for name: {} namespace: {} from {}: {why}\nensure CRDs are installed first",
            go_quote(&name),
            go_quote(&own),
            go_quote(&source)
        )),
        other => other,
    })?;
    if !meant.namespaced {
        return Ok(Info { meant, namespace: String::new(), name, object, source });
    }
    if session.namespace_named && !own.is_empty() && own != session.namespace {
        return Err(format!(
            "the namespace from the provided object {} does not match the namespace {}. You must pass '--namespace={own}' to perform this operation.",
            go_quote(&own),
            go_quote(&session.namespace)
        )
        .into());
    }
    let namespace = if own.is_empty() { session.namespace.clone() } else { own };
    object.set(&["metadata", "namespace"], namespace.clone());
    Ok(Info { meant, namespace, name, object, source })
}

fn with_kind(item: &Value, api_version: &str, kind: &str) -> Value {
    let mut item = item.clone();
    item.set(&["apiVersion"], api_version);
    item.set(&["kind"], kind);
    item
}

fn missing() -> Failure {
    "You must provide one or more resources by argument or filename.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'".into()
}

/// `a,b c` means `a/c b/c`.
fn normalized(words: &[String]) -> Vec<String> {
    match words {
        [types, names @ ..] if !names.is_empty() && types.contains(',') => {
            types.split(',').flat_map(|t| names.iter().map(move |n| format!("{t}/{n}"))).collect()
        }
        _ => words.to_vec(),
    }
}

fn pair(word: &str) -> Result<(String, String)> {
    let parts: Vec<&str> = word.split('/').collect();
    match parts.as_slice() {
        [kind, name] if !kind.is_empty() && !name.is_empty() && !kind.contains(',') => Ok(((*kind).to_owned(), (*name).to_owned())),
        [_, _] => Err("arguments in resource/name form must have a single resource and name".into()),
        _ => Err("arguments in resource/name form may not have more than one slash".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_types_with_names_are_pairs() {
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(normalized(&words(&["a,b", "c"])), ["a/c", "b/c"]);
        assert_eq!(normalized(&words(&["a", "c", "d"])), ["a", "c", "d"]);
        assert!(pair("a/b/c").is_err() && pair("/b").is_err());
    }
}
