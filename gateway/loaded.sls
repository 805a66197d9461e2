{%- from "gateway/map.jinja" import new_modules with context %}

{%- if new_modules %}

# Salt 3008 shows new modules to Jinja, but to states and file templates only after this.
gateway modules:
  test.nop:
    - order: first
    - force_reload_modules: True
{%- endif %}
