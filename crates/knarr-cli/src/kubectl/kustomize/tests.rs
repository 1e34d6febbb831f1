//! Folders in, objects out. The expected texts are what kustomize itself prints.

use std::path::Path;

use knarr_core::yaml;

use super::build;

/// Writes files and builds a folder among them; gives the objects as `kubectl kustomize` prints them.
fn built(files: &[(&str, &str)], folder: &str) -> Result<String, String> {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let objects = build(&root.path().join(folder).display().to_string()).map_err(|e| e.to_string())?;
    Ok(objects.iter().map(yaml::to_string).collect::<Vec<_>>().join("---\n"))
}

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      containers:
      - name: web
        image: nginx
        envFrom: [{configMapRef: {name: settings}}]
";

#[test]
fn a_base_is_changed_by_what_stands_upon_it() {
    let files = [
        (
            "base/kustomization.yaml",
            "resources: [web.yaml]\nconfigMapGenerator:\n- name: settings\n  literals: [a=b]\nlabels:\n- pairs: {app: web}\n  includeSelectors: true\n",
        ),
        ("base/web.yaml", DEPLOYMENT),
        (
            "over/kustomization.yaml",
            "resources: [../base]\nnamePrefix: test-\nnamespace: ns\nimages: [{name: nginx, newTag: 1.27}]\nreplicas: [{name: web, count: 3}]\npatches:\n- target: {kind: Deployment}\n  patch: |-\n    - {op: add, path: /spec/paused, value: true}\n",
        ),
    ];
    let text = built(&files, "over").unwrap();
    let wanted = "apiVersion: v1
data:
  a: b
kind: ConfigMap
metadata:
  labels:
    app: web
  name: test-settings-HASH
  namespace: ns
---
apiVersion: apps/v1
kind: Deployment
metadata:
  labels:
    app: web
  name: test-web
  namespace: ns
spec:
  paused: true
  replicas: 3
  selector:
    matchLabels:
      app: web
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
      - envFrom:
        - configMapRef:
            name: test-settings-HASH
        image: nginx:1.27
        name: web
";
    let hash = text.split("test-settings-").nth(1).and_then(|rest| rest.get(..10)).unwrap();
    assert_eq!(text.replace(hash, "HASH"), wanted);
}

#[test]
fn generators_merge_and_components_join_in() {
    let files = [
        (
            "base/kustomization.yaml",
            "configMapGenerator:\n- {name: c, literals: [a=1, b=2]}\ngeneratorOptions: {disableNameSuffixHash: true, labels: {x: one}}\n",
        ),
        ("part/kustomization.yaml", "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nnameSuffix: -end\n"),
        (
            "over/kustomization.yaml",
            "resources: [../base]\ncomponents: [../part]\nconfigMapGenerator:\n- {name: c, behavior: merge, literals: [b=3], options: {disableNameSuffixHash: true}}\n",
        ),
    ];
    let wanted = "apiVersion: v1\ndata:\n  a: \"1\"\n  b: \"3\"\nkind: ConfigMap\nmetadata:\n  labels:\n    x: one\n  name: c-end\n";
    assert_eq!(built(&files, "over").unwrap(), wanted);
}

#[test]
fn values_are_copied_from_object_to_object() {
    let files = [
        (
            "kustomization.yaml",
            "resources: [web.yaml, svc.yaml]\nreplacements:\n- source: {kind: Service, fieldPath: spec.ports.0.port}\n  targets:\n  - select: {kind: Deployment}\n    fieldPaths: ['spec.template.spec.containers.[name=web].image']\n    options: {delimiter: ':', index: 1}\n",
        ),
        ("web.yaml", DEPLOYMENT),
        ("svc.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}]}\n"),
    ];
    assert!(built(&files, ".").unwrap().contains("image: nginx:80\n"));
}

#[test]
fn what_is_wrong_is_said() {
    let why = |text: &str| built(&[("kustomization.yaml", text)], ".").unwrap_err();
    assert_eq!(why("kind: Kustomization"), "error: kustomization.yaml is empty");
    assert!(why("helmCharts: []").ends_with("the field 'helmCharts' is not supported by this kubectl"));
    assert!(why("resources: [none.yaml]").contains("none.yaml: no such file or directory"));
    assert!(
        built(&[("a/x", "")], "a").unwrap_err().contains("unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory '")
    );
    let twice = [("kustomization.yaml", "resources: [a.yaml, b.yaml]"), ("a.yaml", DEPLOYMENT), ("b.yaml", DEPLOYMENT)];
    assert!(built(&twice, ".").unwrap_err().contains("may not add resource with an already registered id: Deployment.v1.apps/web.[noNs]"));
}
