package cell

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Changed names the resources that differ between two states, sorted: for
// a list section the section and each element by its id or name, for another
// section the section and each field of it. An element that moved within its
// list changes the section only.
func Changed(a, b *State) []string {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	var keys []string
	for i := range va.NumField() {
		name := jsonName(va.Type().Field(i))
		fa, fb := va.Field(i), vb.Field(i)
		var parts []string
		switch {
		case same(fa, fb):
			continue
		case fa.Kind() == reflect.Slice:
			parts = changedElements(fa, fb)
		case fa.Kind() == reflect.Struct:
			for j := range fa.NumField() {
				if !same(fa.Field(j), fb.Field(j)) {
					parts = append(parts, jsonName(fa.Type().Field(j)))
				}
			}
		}
		keys = append(keys, name)
		for _, p := range parts {
			keys = append(keys, name+"/"+p)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// changedElements names the elements of two lists that are not in both alike.
func changedElements(a, b reflect.Value) []string {
	old := make(map[string]reflect.Value, a.Len())
	for i := range a.Len() {
		old[elementID(a.Index(i))] = a.Index(i)
	}
	var ids []string
	for i := range b.Len() {
		id := elementID(b.Index(i))
		was, ok := old[id]
		if !ok || !same(was, b.Index(i)) {
			ids = append(ids, id)
		}
		delete(old, id)
	}
	return slices.AppendSeq(ids, maps.Keys(old))
}

// elementID is what names an element of a top-level list: ID, or else Name.
func elementID(v reflect.Value) string {
	for _, field := range []string{"ID", "Name"} {
		if f := v.FieldByName(field); f.IsValid() && f.Kind() == reflect.String {
			return f.String()
		}
	}
	return ""
}

// same compares two addressable values as a document would show them: times
// that differ only in how they are held are the same.
func same(a, b reflect.Value) bool {
	x, y := a.Addr().Interface(), b.Addr().Interface()
	if reflect.DeepEqual(x, y) {
		return true
	}
	if a.Kind() == reflect.Slice && a.Len() != b.Len() {
		return false
	}
	jx, errx := json.Marshal(x)
	jy, erry := json.Marshal(y)
	return errx == nil && erry == nil && bytes.Equal(jx, jy)
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}
