// Writeref asks Kubernetes' own libraries what becomes of a write: managedFields after an update, an apply, strategic merge
// patches applied and made. It reads lines {gvk, op, live} and writes them with `result` or `error`:
//
//	cd conformance
//	go run ../schema-tools/writeref < ../crates/knarr-schema/fixtures/writes.jsonl > writes.new
//
// The lines of writes.jsonl were drawn at random; a longer run of 70,000 found no difference.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

type object = map[string]any

type line struct {
	GVK [3]string `json:"gvk"`
	Op  struct {
		Op          string `json:"op"`
		Manager     string `json:"manager"`
		Subresource string `json:"sub"`
		Force       bool   `json:"force"`
		Body        object `json:"body"`
		Other       object `json:"other,omitempty"`
		Third       object `json:"third,omitempty"`
	} `json:"op"`
	Live   object `json:"live"`
	Result any    `json:"result"`
	Error  string `json:"error,omitempty"`
}

// What the strategies of the kinds in the file reset.
var resetPaths = map[string][][]any{
	"Pod": {{"status"}}, "Service": {{"status"}}, "Deployment": {{"status"}},
	"Pod/status":        {{"spec"}, {"metadata", "deletionTimestamp"}, {"metadata", "ownerReferences"}},
	"Service/status":    {{"spec"}},
	"Deployment/status": {{"spec"}, {"metadata", "labels"}},
}

type noDefaults struct{}

func (noDefaults) Default(runtime.Object) {}

var typeConverter = applyconfigurations.NewTypeConverter(scheme.Scheme)

func fieldManager(gvk schema.GroupVersionKind, subresource string) (*managedfields.FieldManager, error) {
	key := gvk.Kind
	if subresource != "" {
		key += "/" + subresource
	}
	reset := fieldpath.NewSet()
	for _, path := range resetPaths[key] {
		reset.Insert(fieldpath.MakePathOrDie(path...))
	}
	filters := map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(gvk.GroupVersion().String()): fieldpath.NewExcludeSetFilter(reset)}
	converter := runtime.UnsafeObjectConvertor(scheme.Scheme)
	return managedfields.NewDefaultFieldManager(typeConverter, converter, noDefaults{}, scheme.Scheme, gvk, gvk.GroupVersion(), subresource, filters)
}

func typed(gvk schema.GroupVersionKind, body object) (runtime.Object, error) {
	obj, err := scheme.Scheme.New(gvk)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(body)
	if err == nil {
		err = json.Unmarshal(data, obj)
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj, err
}

// withoutTimes gives the object as a tree; times differ from run to run.
func withoutTimes(obj runtime.Object) (any, error) {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	entries := accessor.GetManagedFields()
	for i := range entries {
		entries[i].Time = nil
	}
	accessor.SetManagedFields(entries)
	return obj, nil
}

func run(l *line) (any, error) {
	gvk := schema.GroupVersionKind{Group: l.GVK[0], Version: l.GVK[1], Kind: l.GVK[2]}
	reference, err := scheme.Scheme.New(gvk)
	if err != nil {
		return nil, err
	}
	marshal := func(o object) []byte {
		data, _ := json.Marshal(o)
		return data
	}
	switch l.Op.Op {
	case "smp":
		return strategicpatch.StrategicMergeMapPatch(l.Op.Body, l.Op.Other, reference)
	case "two":
		patch, err := strategicpatch.CreateTwoWayMergePatch(marshal(l.Op.Body), marshal(l.Op.Other), reference)
		return json.RawMessage(patch), err
	case "three":
		patchMeta, err := strategicpatch.NewPatchMetaFromStruct(reference)
		if err != nil {
			return nil, err
		}
		patch, err := strategicpatch.CreateThreeWayMergePatch(marshal(l.Op.Body), marshal(l.Op.Other), marshal(l.Op.Third), patchMeta, true)
		return json.RawMessage(patch), err
	}
	manager, err := fieldManager(gvk, l.Op.Subresource)
	if err != nil {
		return nil, err
	}
	live, err := typed(gvk, l.Live)
	if err != nil {
		return nil, err
	}
	var result runtime.Object
	if l.Op.Op == "apply" {
		result, err = manager.Apply(live, &unstructured.Unstructured{Object: l.Op.Body}, l.Op.Manager, l.Op.Force)
	} else {
		var obj runtime.Object
		if obj, err = typed(gvk, l.Op.Body); err == nil {
			result, err = manager.Update(live, obj, l.Op.Manager)
		}
	}
	if err != nil {
		return nil, err
	}
	return withoutTimes(result)
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<24)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var l, input line
		// Whole numbers stay whole, as in the API server. The libraries change what they are given: they get a copy.
		for _, into := range []*line{&l, &input} {
			if err := kjson.Unmarshal(in.Bytes(), into); err != nil {
				panic(err)
			}
		}
		result, err := run(&input)
		l.Result, l.Error = result, ""
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			l.Result, l.Error = nil, status.Status().Message
		} else if err != nil {
			l.Result, l.Error = nil, err.Error()
		}
		if err := out.Encode(l); err != nil {
			panic(err)
		}
	}
}
