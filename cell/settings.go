package cell

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// maxSettings bounds a list of differences.
const maxSettings = 2000

// Setting is one difference of two documents. Pointer (RFC 6901) is that of
// the new document, of the old one when Op is remove. Elements of lists that
// have a name or id are matched by it.
type Setting struct {
	Pointer string          `json:"pointer"`
	Op      string          `json:"op"` // add, remove or replace (RFC 6902)
	Before  json.RawMessage `json:"before"`
	After   json.RawMessage `json:"after"`
}

// Settings lists the first 2,000 differences of two states as documents. Sections that are the same in both are not
// rendered.
func Settings(a, b *State) ([]Setting, error) {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	d := &documents{out: []Setting{}}
	for i := range va.NumField() {
		if same(va.Field(i), vb.Field(i)) {
			continue
		}
		name := jsonName(va.Type().Field(i))
		before, err := tree(va.Field(i))
		if err != nil {
			return nil, fmt.Errorf("comparing %s: %w", name, err)
		}
		after, err := tree(vb.Field(i))
		if err != nil {
			return nil, fmt.Errorf("comparing %s: %w", name, err)
		}
		if err := d.compare("/"+name, before, after); err != nil {
			return nil, fmt.Errorf("comparing %s: %w", name, err)
		}
	}
	return d.out, nil
}

// tree renders a section as the JSON values of encoding/json.
func tree(v reflect.Value) (out any, err error) {
	data, err := json.Marshal(v.Addr().Interface())
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	err = dec.Decode(&out)
	return out, err
}

// documents collects the differences of two JSON trees.
type documents struct{ out []Setting }

func (d *documents) compare(pointer string, a, b any) error {
	if len(d.out) >= maxSettings {
		return nil
	}
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			return d.objects(pointer, x, y)
		}
	case []any:
		if y, ok := b.([]any); ok && named(x) && named(y) {
			return d.lists(pointer, x, y)
		}
	}
	if reflect.DeepEqual(a, b) {
		return nil
	}
	return d.add(pointer, "replace", a, b)
}

func (d *documents) objects(pointer string, a, b map[string]any) error {
	for _, k := range slices.Sorted(maps.Keys(a)) {
		if _, ok := b[k]; ok {
			if err := d.compare(pointer+"/"+escape(k), a[k], b[k]); err != nil {
				return err
			}
		} else if err := d.add(pointer+"/"+escape(k), "remove", a[k], nil); err != nil {
			return err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[k]; !ok {
			if err := d.add(pointer+"/"+escape(k), "add", nil, b[k]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *documents) lists(pointer string, a, b []any) error {
	old := make(map[string]int, len(a))
	for i, v := range a {
		old[nameOf(v)] = i
	}
	kept := make(map[string]bool, len(b))
	for _, v := range b {
		kept[nameOf(v)] = true
	}
	for i, v := range a {
		if !kept[nameOf(v)] {
			if err := d.add(pointer+"/"+strconv.Itoa(i), "remove", v, nil); err != nil {
				return err
			}
		}
	}
	for i, v := range b {
		at := pointer + "/" + strconv.Itoa(i)
		var err error
		if j, ok := old[nameOf(v)]; ok {
			err = d.compare(at, a[j], v)
		} else {
			err = d.add(at, "add", nil, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *documents) add(pointer, op string, before, after any) error {
	if len(d.out) >= maxSettings {
		return nil
	}
	s := Setting{Pointer: pointer, Op: op}
	var err error
	if op != "add" {
		if s.Before, err = json.Marshal(before); err != nil {
			return err
		}
	}
	if op != "remove" {
		if s.After, err = json.Marshal(after); err != nil {
			return err
		}
	}
	d.out = append(d.out, s)
	return nil
}

// named reports whether every element of a list has an id or a name of its own.
func named(list []any) bool {
	seen := make(map[string]bool, len(list))
	for _, v := range list {
		n := nameOf(v)
		if n == "" || seen[n] {
			return false
		}
		seen[n] = true
	}
	return true
}

func nameOf(v any) string {
	m, _ := v.(map[string]any)
	for _, k := range []string{"id", "name"} {
		if s, ok := m[k].(string); ok && s != "" && (k == "id" || m["value"] == nil) {
			return s
		}
	}
	return ""
}

// escape writes a reference token (RFC 6901 §3).
func escape(s string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(s)
}
