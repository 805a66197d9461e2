{%- if 'gateway_run' not in pillar %}{% include "gateway/map.jinja" %}{% endif %}
{%- set lacking, new_modules = pillar.gateway_run.lacking, pillar.gateway_run.new_modules %}

{%- if new_modules %}

# Salt 3008 shows new modules to Jinja, but to states and file templates only after this.
gateway modules:
  test.nop:
    - order: first
    - force_reload_modules: True
{%- endif %}
{%- if lacking %}
{%- set words = "Nothing was changed: the formula's own states are not here. Its folders _modules and _states have to lie"
                ~ " beside gateway in the file_roots of environment " ~ saltenv ~ ". For salt-ssh: salt-run saltutil.sync_all" %}

# Whoever cleans would do half of it. In test mode Salt shows another comment, but the name.
gateway without its own states:
  test.fail_without_changes:
    - name: {{ words | tojson }}
    - comment: {{ words | tojson }}
    - order: first
    - failhard: True
{%- endif %}
