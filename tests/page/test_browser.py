"""The page in a browser: six tasks in at most three clicks, and no requests."""

import pytest

from rag_jax.page import build

WIDTHS = (1280, 390)


@pytest.fixture(scope='module')
def url(two_runs, tmp_path_factory):
  file = tmp_path_factory.mktemp('page') / 'both.html'
  return build.write(two_runs, file).as_uri()


@pytest.fixture
def page(browser, url):
  """Opens the page; afterwards, it must have been silent and alone."""
  browser.problems.clear()
  browser.requests.clear()
  browser.open(url)
  yield browser
  assert browser.problems == []
  own = [x for x in browser.requests if not x.startswith(('data:', 'about:'))]
  assert {x.partition('#')[0] for x in own} == {url}


def test_find_a_wrong_answer_that_was_retrieved(page):
  page.click('Questions', 'nav')
  page.click('retrieved but not chosen')
  assert '1 of 8 questions' in page.text('.count')
  page.click('asked 2', '.list')
  assert 'Which animal has number 1, asked 2?' in page.text('.asked')
  assert '✗' in page.text('.verdict')


def test_see_why_the_gold_document_lost(page):
  page.click('Questions', 'nav')
  page.click('not retrieved')
  page.click('asked 3', '.list')
  text = page.text('.why')
  assert text.startswith('The search did not find the gold document "Bees"')
  assert 'code 1 has probability 0.14' in text


def test_compare_two_runs(page):
  assert 'EM' in page.text('.tile')
  assert 'Differences: two against one' in page.text('#view-overview')
  page.click('Questions', 'nav')
  page.click('one right, two not')
  assert '1 of 8 questions' in page.text('.count')
  page.click('asked 0', '.list')
  sides = page.text('.sides')
  assert '✓' in sides and '✗' in sides


def test_the_certified_point(page):
  page.click('Confidence', 'nav')
  text = page.text('#view-confidence')
  assert 'Of questions with a score of at least .550, at most 5%' in text
  assert 'No certificate' in text  # of the second run
  place = page.run(
    '(() => { const at = document.querySelector("circle.certified");'
    ' return [at.getAttribute("cx"), at.getAttribute("cy")].map(Number); })()'
  )
  # Of eight questions, those with scores .95 to .55 are five; three are wrong.
  left, right, bottom, top = 46, 348, 176, 10
  most = 4 / 5  # of the chart: the largest risk of the second run
  assert place[0] == pytest.approx(left + (right - left) * 5 / 8, abs=0.6)
  risk = (bottom - place[1]) / (bottom - top)
  assert 0.5 < risk <= 0.6 / most + 0.3


def test_the_path_in_the_trie(page):
  page.click('Questions', 'nav')
  page.click('not retrieved')
  page.click('asked 3', '.list')
  own = page.run(
    '[...document.querySelector(".sides article").querySelectorAll('
    '".path .level li.own .code")].map((x) => x.textContent)'
  )
  assert own == ['0', '0', '1', '1']  # of the first document, of the gold one
  levels = page.text('.path')
  assert 'Cats +1' in levels and 'Dogs' in levels


def test_copy_a_link_to_one_question(page, url):
  page.call('Browser.grantPermissions', permissions=['clipboardReadWrite'])
  page.click('Questions', 'nav')
  page.click('asked 2', '.list')
  page.click('copy link')
  assert page.text('#message') == 'Link copied'
  link = page.run('location.href')
  assert page.run('navigator.clipboard.readText()') == link
  page.open(link)
  assert 'asked 2' in page.text('.asked')


def test_keys(page):
  page.press('5')
  page.press('j')
  page.press('j')
  first = page.text('.asked')
  page.press('k')
  assert page.text('.asked') != first
  page.press('/')
  for letter in 'asked 6':
    page.press(letter)
  assert '1 of 8 questions' in page.text('.count')
  assert page.run('document.activeElement.id') == 'find'
  assert page.run(
    'new URLSearchParams(location.hash.slice(1)).get("find")'
  ) == ('asked 6')
  page.press('Escape')
  assert '8 of 8 questions' in page.text('.count')


def test_html_in_a_document_is_text(page, url):
  page.open(f'{url}#view=questions&q=dev:q4/dev')
  text = page.text('#detail')
  assert '</script><script>window.evil = 1</script>' in text
  assert '<i>Foxes</i>' in text
  assert page.run('window.evil') is None
  assert page.run('document.querySelectorAll("main i, main img").length') == 0


@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
@pytest.mark.parametrize('width', WIDTHS)
def test_no_view_is_wider_than_the_screen(page, url, width, dark):
  for view in ('overview', 'training', 'confidence', 'docids', 'questions'):
    page.open(f'{url}#view={view}', width=width, dark=dark)
    wide = page.run('document.documentElement.scrollWidth')
    assert wide <= width, view
    assert page.text(f'#view-{view}'), view
  page.open(f'{url}#view=questions&q=dev:q3/dev', width=width, dark=dark)
  assert page.run('document.documentElement.scrollWidth') <= width
  colour = page.run('getComputedStyle(document.body).backgroundColor')
  assert (colour == 'rgb(255, 255, 255)') != dark


def test_print_shows_every_view(page):
  page.call('Emulation.setEmulatedMedia', media='print')
  shown = page.run(
    '[...document.querySelectorAll(".view")].filter((x) => x.offsetHeight > 0)'
    '.map((x) => x.id)'
  )
  assert {'view-overview', 'view-training', 'view-confidence'} <= set(shown)
  page.call('Emulation.setEmulatedMedia', media='')
