package main

import (
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
)

// Widget is the custom resource as it is stored, WidgetV1 as it was served before: the size has moved.
type (
	Widget struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata,omitempty"`
		Spec              WidgetSpec   `json:"spec"`
		Status            WidgetStatus `json:"status,omitempty"`
	}
	WidgetSpec struct {
		Shape Shape  `json:"shape"`
		Color string `json:"color,omitempty"`
	}
	Shape struct {
		Size int64 `json:"size"`
	}
	WidgetStatus struct {
		Ready bool `json:"ready,omitempty"`
	}
	WidgetList struct {
		metav1.TypeMeta `json:",inline"`
		metav1.ListMeta `json:"metadata,omitempty"`
		Items           []Widget `json:"items"`
	}
	WidgetV1 struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata,omitempty"`
		Spec              WidgetSpecV1 `json:"spec"`
		Status            WidgetStatus `json:"status,omitempty"`
	}
	WidgetSpecV1 struct {
		Size  int64  `json:"size"`
		Color string `json:"color,omitempty"`
	}
	WidgetV1List struct {
		metav1.TypeMeta `json:",inline"`
		metav1.ListMeta `json:"metadata,omitempty"`
		Items           []WidgetV1 `json:"items"`
	}
)

const group = "example.com"

// addToScheme makes the types known under their kinds.
func addToScheme(scheme *runtime.Scheme) error {
	old, now := schema.GroupVersion{Group: group, Version: "v1"}, schema.GroupVersion{Group: group, Version: "v2"}
	scheme.AddKnownTypeWithName(now.WithKind("Widget"), &Widget{})
	scheme.AddKnownTypeWithName(now.WithKind("WidgetList"), &WidgetList{})
	scheme.AddKnownTypeWithName(old.WithKind("Widget"), &WidgetV1{})
	scheme.AddKnownTypeWithName(old.WithKind("WidgetList"), &WidgetV1List{})
	metav1.AddToGroupVersion(scheme, old)
	metav1.AddToGroupVersion(scheme, now)
	return clientgoscheme.AddToScheme(scheme)
}

// Hub marks the version that the others are converted to.
func (*Widget) Hub() {}

func (w *WidgetV1) ConvertTo(hub conversion.Hub) error {
	to, ok := hub.(*Widget)
	if !ok {
		return fmt.Errorf("cannot convert to %T", hub)
	}
	to.ObjectMeta, to.Status = w.ObjectMeta, w.Status
	to.Spec = WidgetSpec{Shape: Shape{Size: w.Spec.Size}, Color: w.Spec.Color}
	return nil
}

func (w *WidgetV1) ConvertFrom(hub conversion.Hub) error {
	from, ok := hub.(*Widget)
	if !ok {
		return fmt.Errorf("cannot convert from %T", hub)
	}
	w.ObjectMeta, w.Status = from.ObjectMeta, from.Status
	w.Spec = WidgetSpecV1{Size: from.Spec.Shape.Size, Color: from.Spec.Color}
	return nil
}

func (w *Widget) DeepCopyObject() runtime.Object {
	c := *w
	w.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

func (w *WidgetV1) DeepCopyObject() runtime.Object {
	c := *w
	w.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return &c
}

func (l *WidgetList) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = nil
	for i := range l.Items {
		c.Items = append(c.Items, *l.Items[i].DeepCopyObject().(*Widget))
	}
	return &c
}

func (l *WidgetV1List) DeepCopyObject() runtime.Object {
	c := *l
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	c.Items = nil
	for i := range l.Items {
		c.Items = append(c.Items, *l.Items[i].DeepCopyObject().(*WidgetV1))
	}
	return &c
}

// definitions of the custom resources. How widgets are converted is filled in by the environment.
func definitions() []*apiextensionsv1.CustomResourceDefinition {
	least := float64(1)
	size := apiextensionsv1.JSONSchemaProps{Type: "integer", Minimum: &least}
	color := apiextensionsv1.JSONSchemaProps{Type: "string"}
	status := object(map[string]apiextensionsv1.JSONSchemaProps{"ready": {Type: "boolean"}})
	version := func(name string, storage bool, spec map[string]apiextensionsv1.JSONSchemaProps) apiextensionsv1.CustomResourceDefinitionVersion {
		whole := object(map[string]apiextensionsv1.JSONSchemaProps{"spec": object(spec), "status": status})
		return apiextensionsv1.CustomResourceDefinitionVersion{Name: name, Served: true, Storage: storage, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &whole},
			Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}}}
	}
	return []*apiextensionsv1.CustomResourceDefinition{{ObjectMeta: metav1.ObjectMeta{Name: "widgets." + group}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: group, Scope: apiextensionsv1.NamespaceScoped,
		Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{
			version("v1", false, map[string]apiextensionsv1.JSONSchemaProps{"size": size, "color": color}),
			version("v2", true, map[string]apiextensionsv1.JSONSchemaProps{"shape": object(map[string]apiextensionsv1.JSONSchemaProps{"size": size}), "color": color}),
		},
	}}}
}

func object(properties map[string]apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
	return apiextensionsv1.JSONSchemaProps{Type: "object", Properties: properties}
}

// webhooks as a chart would bring them, with services that the environment replaces by its own address.
func webhooks() ([]*admissionv1.MutatingWebhookConfiguration, []*admissionv1.ValidatingWebhookConfiguration) {
	none, fail := admissionv1.SideEffectClassNone, admissionv1.Fail
	rules := []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
		Rule: admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{"v2"}, Resources: []string{"widgets"}}}}
	config := func(path string) admissionv1.WebhookClientConfig {
		return admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Name: "hooks", Namespace: "default", Path: &path}}
	}
	mutating := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "defaults"}, Webhooks: []admissionv1.MutatingWebhook{{Name: "defaults." + group,
		AdmissionReviewVersions: []string{"v1"}, SideEffects: &none, FailurePolicy: &fail, Rules: rules, ClientConfig: config("/mutate-example-com-v2-widget")}}}
	validating := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "checks"}, Webhooks: []admissionv1.ValidatingWebhook{{Name: "checks." + group,
		AdmissionReviewVersions: []string{"v1"}, SideEffects: &none, FailurePolicy: &fail, Rules: rules, ClientConfig: config("/validate-example-com-v2-widget")}}}
	return []*admissionv1.MutatingWebhookConfiguration{mutating}, []*admissionv1.ValidatingWebhookConfiguration{validating}
}
