// Prints how the pinned release's server shows its own (internal) types in errors: the names and the order of their fields, which
// are not those of the API, and what kind of value each has. ../generate runs it; the README tells the form.
package main

import (
	"fmt"
	"reflect"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/authentication/install"
	_ "k8s.io/kubernetes/pkg/apis/authorization/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	_ "k8s.io/kubernetes/pkg/apis/storagemigration/install"

	apiextensionsinstall "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiregistrationinstall "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
)

var lines = map[string]string{}

// Types that write themselves, by the letter that schema.json has for them.
var special = map[string]string{
	"resource.Quantity": "Q", "v1.Time": "T", "v1.MicroTime": "T", "v1.Duration": "D", "intstr.IntOrString": "I",
	"runtime.RawExtension": "R", "v1.FieldsV1": "R",
}

func short(t reflect.Type) string {
	path := t.PkgPath()
	return path[strings.LastIndex(path, "/")+1:] + "." + t.Name()
}

func deref(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

func code(t, external reflect.Type) string {
	if external != nil && t.Kind() != reflect.Pointer {
		external = deref(external)
	}
	elem := func() reflect.Type {
		if external != nil && external.Kind() == t.Kind() {
			return external.Elem()
		}
		return nil
	}
	if s, ok := special[short(t)]; ok && t.Kind() == reflect.Struct {
		return s
	}
	switch t.Kind() {
	case reflect.Pointer:
		if external != nil {
			external = deref(external)
		}
		return "*" + code(t.Elem(), external)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "y"
		}
		return "[" + code(t.Elem(), elem())
	case reflect.Map:
		return "{" + code(t.Elem(), elem())
	case reflect.String:
		return "s"
	case reflect.Bool:
		return "b"
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Float64, reflect.Uint8:
		return "i"
	case reflect.Struct:
		if strings.HasPrefix(t.PkgPath(), "k8s.io/apimachinery/pkg/apis/meta/v1") {
			return "m" + t.Name()
		}
		walk(t, external)
		return "@" + short(t)
	}
	return "R"
}

func fields(t, external reflect.Type) []string {
	var all []string
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() || f.Type == reflect.TypeFor[metav1.TypeMeta]() {
			continue
		}
		if f.Type == reflect.TypeFor[metav1.ObjectMeta]() {
			if f.Anonymous {
				all = append(all, "metadata!mObjectMeta")
				continue
			}
		} else if f.Anonymous && f.Type.Kind() == reflect.Struct && f.Tag.Get("json") == "" {
			var inner reflect.Type
			if external != nil {
				if e, ok := external.FieldByName(f.Name); ok {
					inner = deref(e.Type)
				}
			}
			if inner == nil {
				inner = external
			}
			// Errors show the part alone, too.
			walk(f.Type, inner)
			all = append(all, fields(f.Type, inner)...)
			continue
		}
		shown, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if shown == "-" {
			continue
		}
		if shown == "" {
			shown = f.Name
		}
		field := shown
		var of reflect.Type
		if external != nil && external.Kind() == reflect.Struct {
			if e, ok := external.FieldByName(f.Name); ok {
				of = e.Type
				name, _, _ := strings.Cut(e.Tag.Get("json"), ",")
				if name != "" && !strings.EqualFold(name, shown) {
					field += "/" + name
				}
			}
		}
		if strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero") {
			field += "?"
		}
		all = append(all, field+":"+code(f.Type, of))
	}
	return all
}

func walk(t, external reflect.Type) {
	name := short(t)
	if _, ok := lines[name]; ok {
		return
	}
	lines[name] = ""
	lines[name] = strings.Join(fields(t, external), " ")
}

func all(scheme *runtime.Scheme) {
	for gvk, external := range scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal || strings.HasSuffix(gvk.Kind, "List") || strings.HasPrefix(external.PkgPath(), "k8s.io/apimachinery/") {
			continue
		}
		if strings.Contains(gvk.Version, "alpha") || strings.Contains(gvk.Version, "beta") || gvk.GroupVersion().String() == "autoscaling/v1" {
			continue
		}
		internal, err := scheme.New(schema.GroupVersionKind{Group: gvk.Group, Version: runtime.APIVersionInternal, Kind: gvk.Kind})
		if err != nil {
			continue
		}
		walk(reflect.TypeOf(internal).Elem(), external)
	}
}

func main() {
	all(legacyscheme.Scheme)
	for _, install := range []func(*runtime.Scheme){apiextensionsinstall.Install, apiregistrationinstall.Install} {
		scheme := runtime.NewScheme()
		install(scheme)
		all(scheme)
	}
	var names []string
	for name := range lines {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Println(name, lines[name])
	}
}
