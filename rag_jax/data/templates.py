"""Sentence and summary templates of the facts dataset.

An entity kind is a table in `tables/`; a relation is a column of that table.
The slot {x} is the name of the entity, {v} the value, and {n} two other
entities of the same kind (distractors). Questions are in `phrasings.py`.
"""

# Names with an article, or with the kind if two documents share the name.
NAMES = {
  ('countries', 'Georgia'): 'the country of Georgia',
  ('states', 'Georgia'): 'the U.S. state of Georgia',
  ('states', 'New York'): 'the state of New York',
  ('states', 'Washington'): 'the state of Washington',
  ('elements', 'Mercury'): 'the element Mercury',
  ('planets', 'Mercury'): 'the planet Mercury',
} | {
  ('countries', name): f'the {name}'
  for name in (
    'Bahamas',
    'Central African Republic',
    'Comoros',
    'Czech Republic',
    'Democratic Republic of the Congo',
    'Dominican Republic',
    'Gambia',
    'Maldives',
    'Marshall Islands',
    'Netherlands',
    'Philippines',
    'Republic of the Congo',
    'Solomon Islands',
    'United Arab Emirates',
    'United Kingdom',
    'United States',
  )
}

# kind -> opening sentences, which answer no question.
OPENINGS = {
  'countries': (
    '{x} is a sovereign state and a member of the United Nations.',
    'This article is about {x}, one of the countries of the world.',
    'Among the countries of the world, {x} is the subject of this page.',
    'Travellers and students often read about {x}, a sovereign country.',
  ),
  'elements': (
    '{x} is a chemical element of the periodic table.',
    'In chemistry, {x} is one of the known elements.',
    'This article is about {x}, one of the chemical elements.',
    'Every periodic table has a place for {x}, a chemical element.',
  ),
  'states': (
    '{x} is one of the fifty states of the United States of America.',
    'This article is about {x}, a state of the American union.',
    'Among the fifty American states, {x} is the subject of this page.',
    'The union has fifty members, and {x} is one of them.',
  ),
  'presidents': (
    '{x} was an American politician and head of state.',
    'Among American statesmen, {x} reached the highest office.',
    'This article is about {x}, who led the United States.',
    'The history of the United States names {x} among its leaders.',
  ),
  'books': (
    '{x} is a well known work of literature.',
    'Among the classics of literature, {x} is still widely read.',
    'This article is about {x}, a famous book in prose.',
    'Many schools and libraries keep copies of {x}, a classic book.',
  ),
  'planets': (
    '{x} is a planet that goes around the Sun.',
    'This article is about {x}, a world of the solar system.',
    'The solar system has eight planets, and {x} is one of them.',
  ),
}

# kind -> filler sentences, which answer no question.
FILLERS = {
  'countries': (
    'It is a member of the United Nations together with {n}.',
    'It sends a delegate to the General Assembly, just as {n} do.',
    'Atlases show it on the same kind of page as {n}.',
    'Its flag and its anthem are among its national symbols.',
    'It should not be confused with {n}, which are other countries.',
  ),
  'elements': (
    'Its properties are listed in every handbook of chemistry.',
    'Students of the periodic table also learn the names {n}.',
    'Tables of data give its values beside those of {n}.',
    'It should not be confused with {n}, which are other elements.',
    'Its name is known to chemists in all parts of the world.',
  ),
  'states': (
    'It elects two senators, as do {n}.',
    'Like {n}, it has a governor and a legislature of its own.',
    'The federal constitution applies in it just as in {n}.',
    'Its courts, schools and roads are run by its own government.',
  ),
  'presidents': (
    'The same office was also held by {n}.',
    'The papers of this president are kept for historians.',
    'Libraries hold biographies of this president and of {n}.',
    'In the gallery of presidents there are portraits of {n} as well.',
  ),
  'books': (
    'Many libraries keep copies of it and of {n}.',
    'It has been translated into other languages many times.',
    'It should not be confused with {n}, which are other books.',
    'New editions with notes for students appear again and again.',
    'Lists of great books often name {n} as well.',
  ),
  'planets': (
    'Space probes have taken many pictures of it.',
    'Other planets of the solar system are {n}.',
    'Astronomers compare its path with the paths of {n}.',
    'Like {n}, it moves around the Sun on an ellipse.',
    'It shines by the light of the Sun, just as {n} do.',
  ),
}

# (kind, relation) -> sentences that state the fact.
SENTENCES = {
  ('countries', 'capital'): (
    'The capital of {x} is {v}.',
    'The city of {v} is its capital.',
    '{v} serves as the capital of {x}.',
    'Its capital city is called {v}.',
  ),
  ('countries', 'currency'): (
    'The currency used there has the code {v}.',
    'Prices are given in its money, whose currency code is {v}.',
    'Banks write {v} as the code of its currency.',
  ),
  ('countries', 'continent'): (
    'It lies on the continent of {v}.',
    'On maps it is found in {v}, its continent.',
    'Geographers count it to {v} when they group countries by continent.',
  ),
  ('countries', 'calling_code'): (
    'Telephone numbers there start with the calling code {v}.',
    'The calling code for a telephone call to {x} is {v}.',
    'Callers from abroad dial {v}, its calling code, before the number.',
  ),
  ('countries', 'domain'): (
    'Its internet domain is {v} for all web addresses.',
    'Web addresses of {x} end in the internet domain {v}.',
    'On the internet the domain {v} belongs to it.',
  ),
  ('countries', 'demonym'): (
    'The demonym for its people is {v}.',
    'Its people are described by the demonym {v}.',
    'The word {v} is the demonym of {x}.',
  ),
  ('countries', 'neighbours'): (
    'It shares land borders with {v}.',
    'Its neighbours by land are countries such as {v}.',
    'By land it borders on {v}.',
  ),
  ('elements', 'symbol'): (
    'Its chemical symbol is {v}.',
    'Chemists write it with the symbol {v}.',
    'In formulas {x} is written with the symbol {v}.',
    'The symbol {v} stands for it.',
  ),
  ('elements', 'number'): (
    'Its atomic number is {v}, the count of protons in a nucleus.',
    'It has {v} protons in the nucleus, and that is its atomic number.',
    'A nucleus of {x} has {v} protons, which is the atomic number.',
  ),
  ('elements', 'period'): (
    'It stands in period {v} of the table.',
    'In the table it belongs to period {v}.',
    'The row of the table where it stands is period {v}.',
  ),
  ('elements', 'group'): (
    'It is placed in group {v}, a column of the table.',
    'Its column of the table is group {v}.',
    'The elements of group {v} form the column of {x}.',
  ),
  ('elements', 'category'): (
    'By its properties it is classed as a {v}.',
    'Its category is that of a {v}.',
    'The category in which chemists put it is {v}.',
  ),
  ('elements', 'year'): (
    'It was discovered in the year {v}.',
    'The year of its discovery was {v}.',
    'Its discovery is dated to {v}.',
  ),
  ('states', 'capital'): (
    'The capital of {x} is {v}.',
    'Its legislature meets in the capital, {v}.',
    'The city of {v} is its capital.',
    '{v} serves as the capital, where the governor works.',
  ),
  ('states', 'abbreviation'): (
    'Letters carry its postal abbreviation {v}.',
    'The postal abbreviation of {x} is {v}.',
    'The post office writes {v}, the abbreviation of the state.',
  ),
  ('states', 'year'): (
    'It was admitted to the union in {v}.',
    'It joined the union as a state in the year {v}.',
    'The year {v} saw it become a state of the union.',
  ),
  ('states', 'largest_city'): (
    'Its largest city by population is {v}.',
    'Among its cities {v} is the largest city by population.',
    'No other city of the state is as large as {v}.',
  ),
  ('states', 'nickname'): (
    'Its nickname is {v}.',
    'On many signs it goes by the nickname {v}.',
    'People know {x} by its nickname, {v}.',
  ),
  ('presidents', 'ordinal'): (
    '{x} was the {v} president of the United States.',
    'In the list of presidents, {x} comes {v}.',
    'This president stands {v} in the list of all presidents.',
  ),
  ('presidents', 'party'): (
    'The political party of {x} was the {v} Party.',
    'In party politics this president was a member of the {v} Party.',
    'The {v} Party was the political party of the president.',
  ),
  ('presidents', 'birth_state'): (
    'The birthplace lies in what is now the state of {v}.',
    'The birthplace of {x} is in {v}.',
    '{x} was born in {v}.',
  ),
  ('presidents', 'took_office'): (
    'The term as president began in {v}.',
    'The president took office in the year {v}.',
    'The first day in office of {x} was in {v}.',
  ),
  ('presidents', 'born'): (
    'The year of birth was {v}.',
    'The later president came into the world in {v}.',
    'The birth of {x} is dated to the year {v}.',
  ),
  ('books', 'author'): (
    'The author of the book is {v}.',
    'It was written by {v}.',
    '{v} wrote it.',
    'The name of {v}, its author, stands on the cover.',
  ),
  ('books', 'year'): (
    'It was first published in {v}.',
    'The year of its publication was {v}.',
    'Readers could first buy it in {v}, when it was published.',
  ),
  ('books', 'language'): (
    'It was written in {v}.',
    'Its original language is {v}.',
    'The author wrote it in the {v} language.',
  ),
  ('books', 'character'): (
    'One of its characters is {v}.',
    'A well known character of the story is {v}.',
    'Its readers remember {v}, a character of the book.',
  ),
  ('planets', 'ordinal'): (
    'It is the {v} planet from the Sun.',
    'Counted from the Sun, the planet comes {v}.',
    '{x} holds the {v} place in the count of planets from the Sun.',
  ),
  ('planets', 'type'): (
    'By its type it is a {v} planet.',
    'Its type of planet is {v}.',
    'Astronomers give the type of {x} as {v}.',
  ),
  ('planets', 'namesake'): (
    'It is named after the {v}.',
    'Its name comes from the {v}.',
    'The {v} gave the planet its name.',
  ),
  ('planets', 'moon'): (
    'Its largest moon is {v}.',
    'The largest moon that goes around it is {v}.',
    'Of what goes around {x}, the largest moon is {v}.',
  ),
}

# kind -> summary sentences; one with a missing value is omitted.
SUMMARIES = {
  'countries': (
    '{x} is a country in {continent}.',
    'The capital of {x} is {capital} and its currency code is {currency}.',
  ),
  'elements': (
    '{x} is a chemical element with the symbol {symbol}.',
    'Its atomic number is {number}.',
  ),
  'states': (
    '{x} is a state of the United States with the capital {capital}.',
    'It joined the union in {year}.',
  ),
  'presidents': (
    '{x} was the {ordinal} president of the United States.',
    'The term began in {took_office}.',
  ),
  'books': (
    '{x} is a book by {author}, written in {language}.',
    'It was first published in {year}.',
  ),
  'planets': (
    '{x} is the {ordinal} planet from the Sun.',
    'It is a {type} planet.',
  ),
}
