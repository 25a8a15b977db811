"""The fact tables against `countryinfo` and `mendeleev`.

Both packages are in the extra `dev`. Intended differences and their reasons are
in tables/differences.csv. An unlisted difference fails the test, and so does a
listed difference that no longer exists.
"""

import csv
import importlib.resources

import pytest

from rag_jax.data import facts

# Name of a series in mendeleev -> our name.
SERIES = {
  'Nonmetals': 'nonmetal',
  'Noble gases': 'noble gas',
  'Alkali metals': 'alkali metal',
  'Alkaline earth metals': 'alkaline earth metal',
  'Metalloids': 'metalloid',
  'Halogens': 'halogen',
  'Poor metals': 'post-transition metal',
  'Transition metals': 'transition metal',
  'Lanthanides': 'lanthanide',
  'Actinides': 'actinide',
}
# In countryinfo Scotland and Wales have the code GBR, and Burma is Myanmar.
NOT_A_COUNTRY = ('Scotland', 'Wales', 'Burma')


def listed(kind):
  path = importlib.resources.files('rag_jax.data') / 'tables'
  with (path / 'differences.csv').open(encoding='utf-8') as lines:
    rows = list(csv.DictReader(lines))
  assert all(row['why'] for row in rows)
  return {
    (row['key'], row['column'], row['ours'], row['theirs'])
    for row in rows
    if row['key'].startswith(f'{kind}/')
  }


def country_differences(countryinfo):
  infos = [country.info() for country in countryinfo.all_countries()]
  theirs = {
    info['ISO']['alpha3']: info
    for info in infos
    if info.get('ISO') and info.get('name') not in NOT_A_COUNTRY
  }
  rows = facts.read_table('countries')
  names = {row['iso3']: row['name'] for row in rows}
  compared, found = 0, set()
  for row in rows:
    info = theirs[row['iso3']]
    region = info.get('region')
    america = ('North America', 'South America')
    accepted = {
      'iso2': [info['ISO']['alpha2']],
      'capital': [info.get('capital')],
      'currency': info.get('currencies') or [],
      'continent': america if region == 'Americas' else [region],
      'calling_code': [
        code.replace('-', '') for code in info.get('callingCodes') or []
      ],
      'domain': info.get('tld') or [],
      'demonym': (info.get('demonym') or '').split(','),
      'neighbours': [
        '; '.join(
          sorted(names[b] for b in info.get('borders') or [] if b in names)
        )
      ],
    }
    for column, values in accepted.items():
      values = [value for value in values if value]
      if not row[column] or not values:
        continue
      compared += 1
      if row[column] not in values:
        key = facts.document_id('countries', row)
        found.add((key, column, row[column], ' or '.join(values)))
  return compared, found


def element_differences(fetch):
  series = fetch.fetch_table('series').set_index('id')['name']
  table = fetch.fetch_table('elements').set_index('symbol')
  compared, found = 0, set()
  for row in facts.read_table('elements'):
    theirs = table.loc[row['symbol']]
    columns = {
      'name': theirs['name'],
      'number': theirs['atomic_number'],
      'period': theirs['period'],
      'group': theirs['group_id'],
      'year': theirs['discovery_year'],
      'category': SERIES[series[theirs['series_id']]],
    }
    for column, value in columns.items():
      value = '' if value != value else str(value).removesuffix('.0')  # NaN
      if not row[column] or not value:
        continue
      compared += 1
      if row[column] != value:
        key = facts.document_id('elements', row)
        found.add((key, column, row[column], value))
  return compared, found


def test_countries_against_countryinfo():
  countryinfo = pytest.importorskip(
    'countryinfo', reason='countryinfo is an extra: pip install countryinfo'
  )
  compared, found = country_differences(countryinfo)
  assert compared > 1400
  assert found == listed('countries')


def test_elements_against_mendeleev():
  fetch = pytest.importorskip(
    'mendeleev.fetch', reason='mendeleev is an extra: pip install mendeleev'
  )
  compared, found = element_differences(fetch)
  assert compared > 600
  assert found == listed('elements')


def test_states_against_countryinfo():
  countryinfo = pytest.importorskip(
    'countryinfo', reason='countryinfo is an extra: pip install countryinfo'
  )
  provinces = set(countryinfo.CountryInfo('United States').provinces())
  names = {row['name'] for row in facts.read_table('states')}
  assert names <= provinces
