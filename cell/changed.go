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
		differs := false
		switch fa.Kind() {
		case reflect.Slice:
			parts, differs = changedElements(fa, fb)
		case reflect.Struct:
			for j := range fa.NumField() {
				if !same(fa.Field(j), fb.Field(j)) {
					parts = append(parts, jsonName(fa.Type().Field(j)))
				}
			}
		default:
			differs = !same(fa, fb)
		}
		if differs || len(parts) > 0 {
			keys = append(keys, name)
		}
		for _, p := range parts {
			keys = append(keys, name+"/"+p)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// changedElements names the elements of two lists that are not in both alike,
// and reports whether an element stands in another place.
func changedElements(a, b reflect.Value) (ids []string, moved bool) {
	i := 0 // the usual case: most elements are where they were
	for ; i < a.Len() && i < b.Len(); i++ {
		id := elementID(a.Index(i))
		if id != elementID(b.Index(i)) {
			break
		}
		if !same(a.Index(i), b.Index(i)) {
			ids = append(ids, id)
		}
	}
	old := make(map[string]reflect.Value, a.Len()-i)
	for j := i; j < a.Len(); j++ {
		old[elementID(a.Index(j))] = a.Index(j)
	}
	moved = i < a.Len() && i < b.Len()
	for j := i; j < b.Len(); j++ {
		id := elementID(b.Index(j))
		was, ok := old[id]
		if !ok || !same(was, b.Index(j)) {
			ids = append(ids, id)
		}
		delete(old, id)
	}
	return slices.AppendSeq(ids, maps.Keys(old)), moved
}

// elementID is what names an element of a top-level list: ID, or else Name.
func elementID(v reflect.Value) string {
	switch x := v.Addr().Interface().(type) {
	case *User:
		return x.Name
	case *Peer:
		return x.Name
	case *Link:
		return x.Name
	case *Exit:
		return x.ID
	case *Chain:
		return x.ID
	case *Service:
		return x.ID
	}
	return ""
}

// same compares two addressable values as a document would show them: times
// that differ only in how they are held are the same.
func same(a, b reflect.Value) bool {
	x, y := a.Addr().Interface(), b.Addr().Interface()
	if p, ok := x.(*Peer); ok {
		if p.Identical(y.(*Peer)) {
			return true
		}
	} else if identical(a, b) {
		return true
	}
	if reflect.DeepEqual(x, y) {
		return true
	}
	jx, errx := json.Marshal(x)
	jy, erry := json.Marshal(y)
	return errx == nil && erry == nil && bytes.Equal(jx, jy)
}

// identical is a quick answer for the usual case, in which a clone shares what
// the edit did not touch; false means "look closer".
func identical(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Slice:
		return a.Len() == b.Len() && a.UnsafePointer() == b.UnsafePointer()
	case reflect.Map:
		return a.UnsafePointer() == b.UnsafePointer()
	case reflect.Struct:
		for i := range a.NumField() {
			if !identical(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	}
	return a.Comparable() && a.Equal(b)
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}
