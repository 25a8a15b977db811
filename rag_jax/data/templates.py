"""The sentences, questions and summaries that facts are put into.

A kind of entity is a table in `tables/`; a relation is one of its columns. In
a template, {x} is what the entity is called and {v} the value. Of the
questions of a relation the last two are held out for `test_phrasing`. A
question that asks for the entity itself has {x} as its answer (`REVERSED`).
"""

# Entities whose plain name would fit two documents.
AMBIGUOUS = {
  ('countries', 'Georgia'): 'the country of Georgia',
  ('states', 'Georgia'): 'the state of Georgia',
  ('states', 'Washington'): 'the state of Washington',
  ('elements', 'Mercury'): 'the element Mercury',
  ('planets', 'Mercury'): 'the planet Mercury',
}

# kind -> first sentences, without any fact that is asked for.
OPENINGS = {
  'countries': (
    '{x} is a sovereign state and a member of the United Nations.',
    'This article is about {x}, one of the countries of the world.',
  ),
  'elements': (
    '{x} is a chemical element of the periodic table.',
    'In chemistry, {x} is one of the known elements.',
  ),
  'states': (
    '{x} is one of the fifty states of the United States of America.',
    'This article is about {x}, a state of the American union.',
  ),
  'presidents': (
    '{x} was an American politician and head of state.',
    'Among American statesmen, {x} reached the highest office.',
  ),
  'books': (
    '{x} is a well known work of literature.',
    'Among the classics of literature, {x} is still widely read.',
  ),
  'planets': (
    '{x} is a planet that goes around the Sun.',
    'This article is about {x}, a world of the solar system.',
  ),
}

# kind -> last sentences; {n} names other entities, as distractors.
CLOSINGS = {
  'countries': (
    'It maintains relations with many other states.',
    'Its flag and anthem are protected by law.',
  ),
  'elements': (
    'Its properties are listed in every handbook of chemistry.',
    'Students meet it next to elements such as {n}.',
  ),
  'states': (
    'It elects two senators, as do {n}.',
    'Like {n}, it has a governor and a legislature of its own.',
  ),
  'presidents': (
    'Historians often compare this presidency with those of {n}.',
    'The papers of this president are kept for historians.',
  ),
  'books': (
    'Readers who like it are often sent on to {n}.',
    'It has been translated and adapted many times.',
  ),
  'planets': (
    'Telescopes show it to anyone who looks at the night sky.',
    'Its neighbours in the solar system include {n}.',
  ),
}

# (kind, relation) -> sentences of the document.
SENTENCES = {
  ('countries', 'capital'): (
    'The capital of {x} is {v}.',
    'The city of {v} is its capital and seat of government.',
    'The government has its seat in the capital {v}.',
  ),
  ('countries', 'currency'): (
    'The currency used there has the code {v}.',
    'Prices are given in its money, whose currency code is {v}.',
  ),
  ('countries', 'continent'): (
    'It lies on the continent of {v}.',
    'On maps it is found in {v}, its continent.',
  ),
  ('countries', 'calling_code'): (
    'Telephone numbers there start with the calling code {v}.',
    'The calling code for a telephone call to {x} is {v}.',
  ),
  ('countries', 'domain'): (
    'Its internet domain is {v} for all web addresses.',
    'Web addresses of {x} end in the internet domain {v}.',
  ),
  ('countries', 'demonym'): (
    'A person from there is called {v}.',
    'The demonym for its people is {v}.',
  ),
  ('countries', 'neighbours'): (
    'It shares land borders with {v}.',
    'Its neighbours by land are {v}.',
  ),
  ('elements', 'symbol'): (
    'Its chemical symbol is {v}.',
    'Chemists write it with the symbol {v}.',
  ),
  ('elements', 'number'): (
    'Its atomic number is {v}, the count of protons in a nucleus.',
    'With {v} protons in the nucleus, that is also its atomic number.',
  ),
  ('elements', 'period'): (
    'It stands in period {v} of the table.',
    'In the table it belongs to period {v}.',
  ),
  ('elements', 'group'): (
    'It is placed in group {v}, a column of the table.',
    'Its column of the table is group {v}.',
  ),
  ('elements', 'category'): (
    'By its properties it is classed as a {v}.',
    'Its category is that of a {v}.',
  ),
  ('elements', 'year'): (
    'It was discovered in the year {v}.',
    'The year of its discovery was {v}.',
  ),
  ('states', 'capital'): (
    'The capital of {x} is {v}.',
    'Its legislature meets in the capital, {v}.',
  ),
  ('states', 'abbreviation'): (
    'Letters carry its postal abbreviation {v}.',
    'The postal abbreviation of {x} is {v}.',
  ),
  ('states', 'year'): (
    'It was admitted to the union in {v}.',
    'It joined the union as a state in the year {v}.',
  ),
  ('states', 'largest_city'): (
    'Its largest city by population is {v}.',
    'Most people live in {v}, its largest city.',
  ),
  ('states', 'nickname'): (
    'Its nickname is the {v}.',
    'On many signs it goes by the nickname {v}.',
  ),
  ('presidents', 'ordinal'): (
    '{x} was the {v} president of the United States.',
    'In the list of presidents, {x} comes {v}.',
  ),
  ('presidents', 'party'): (
    'The political party was {v}.',
    'In party politics this president was {v}.',
  ),
  ('presidents', 'birth_state'): (
    'The birthplace lies in what is now {v}.',
    'The president was born in {v}.',
  ),
  ('presidents', 'took_office'): (
    'The term as president began in {v}.',
    'The president took office in the year {v}.',
  ),
  ('presidents', 'born'): (
    'The year of birth was {v}.',
    'The later president came into the world in {v}.',
  ),
  ('books', 'author'): (
    'The author of the book is {v}.',
    'It was written by {v}.',
  ),
  ('books', 'year'): (
    'It was first published in {v}.',
    'The year of its publication was {v}.',
  ),
  ('books', 'language'): (
    'It was written in the {v} language.',
    'Its original language is {v}.',
  ),
  ('books', 'form'): (
    'By its form it is a {v}.',
    'Its literary form is that of a {v}.',
  ),
  ('planets', 'ordinal'): (
    'It is the {v} planet from the Sun.',
    'Counted from the Sun, the planet comes {v}.',
  ),
  ('planets', 'type'): (
    'By its type it is a {v} planet.',
    'Its type of planet is {v}.',
  ),
  ('planets', 'namesake'): (
    'It is named after {v}.',
    'Its name comes from {v}.',
  ),
  ('planets', 'moon'): (
    'Its largest moon is {v}.',
    'The largest moon that goes around it is {v}.',
  ),
}

# (kind, relation) -> questions for the value; the last two are held out.
QUESTIONS = {
  ('countries', 'capital'): (
    'What is the capital of {x}?',
    'Which city is the capital of {x}?',
    'What is the name of the capital city of {x}?',
    'In which city does {x} have its seat of government?',
    'Name the capital of {x}.',
    '{x} has which city as its capital?',
  ),
  ('countries', 'currency'): (
    'What is the currency code of {x}?',
    'Which currency is used in {x}?',
    'What is the code of the money of {x}?',
    'In which currency are prices given in {x}?',
    'Name the currency of {x}.',
    'Which code has the currency used in {x}?',
  ),
  ('countries', 'continent'): (
    'On which continent is {x}?',
    'Which continent does {x} lie on?',
    'What is the continent of {x}?',
    'To which continent does {x} belong?',
    'Name the continent of {x}.',
    '{x} is found on which continent?',
  ),
  ('countries', 'calling_code'): (
    'What is the calling code of {x}?',
    'Which calling code is used for {x}?',
    'With which code do telephone numbers of {x} start?',
    'What calling code does a telephone call to {x} need?',
    'Name the calling code of {x}.',
    'Telephone numbers in {x} start with which calling code?',
  ),
  ('countries', 'domain'): (
    'What is the internet domain of {x}?',
    'Which internet domain belongs to {x}?',
    'With what domain do web addresses of {x} end?',
    'What domain is used on the internet for {x}?',
    'Name the internet domain of {x}.',
    'Web addresses in {x} end in which domain?',
  ),
  ('countries', 'demonym'): (
    'What is a person from {x} called?',
    'What is the demonym for people of {x}?',
    'How are people from {x} called?',
    'Which demonym is used for a person from {x}?',
    'Name the demonym of {x}.',
    'A person from {x} is called what?',
  ),
  ('elements', 'symbol'): (
    'What is the chemical symbol of {x}?',
    'Which symbol is used for {x}?',
    'With which symbol do chemists write {x}?',
    'What symbol does {x} have?',
    'Name the chemical symbol of {x}.',
    '{x} has which symbol?',
  ),
  ('elements', 'number'): (
    'What is the atomic number of {x}?',
    'How many protons does {x} have?',
    'Which atomic number belongs to {x}?',
    'How many protons are in the nucleus of {x}?',
    'Name the atomic number of {x}.',
    '{x} has how many protons?',
  ),
  ('elements', 'period'): (
    'In which period of the table is {x}?',
    'Which period does {x} belong to?',
    'What is the period of {x}?',
    'In what period does {x} stand?',
    'Name the period of {x}.',
    '{x} stands in which period?',
  ),
  ('elements', 'group'): (
    'In which group of the table is {x}?',
    'Which group does {x} belong to?',
    'What is the group of {x}?',
    'In what column of the table is {x} placed?',
    'Name the group of {x}.',
    '{x} is placed in which group?',
  ),
  ('elements', 'category'): (
    'What category of element is {x}?',
    'Which category does {x} belong to?',
    'How is {x} classed by its properties?',
    'What is the category of {x}?',
    'Name the category of {x}.',
    '{x} is classed as what?',
  ),
  ('elements', 'year'): (
    'When was {x} discovered?',
    'In which year was {x} discovered?',
    'What year was {x} discovered in?',
    'What is the year of discovery of {x}?',
    'Name the year of the discovery of {x}.',
    '{x} was discovered in which year?',
  ),
  ('states', 'capital'): (
    'What is the capital of {x}?',
    'Which city is the capital of {x}?',
    'What is the name of the capital city of {x}?',
    'In which capital does the legislature of {x} meet?',
    'Name the capital of {x}.',
    '{x} has which city as its capital?',
  ),
  ('states', 'abbreviation'): (
    'What is the postal abbreviation of {x}?',
    'Which postal abbreviation is used for {x}?',
    'What abbreviation do letters to {x} carry?',
    'How is {x} written in a postal abbreviation?',
    'Name the postal abbreviation of {x}.',
    'Letters to {x} carry which abbreviation?',
  ),
  ('states', 'year'): (
    'When was {x} admitted to the union?',
    'In which year did {x} become a state?',
    'What year was {x} admitted to the union?',
    'When did {x} join the union?',
    'Name the year when {x} was admitted to the union.',
    '{x} joined the union in which year?',
  ),
  ('states', 'largest_city'): (
    'What is the largest city of {x}?',
    'Which city in {x} is the largest?',
    'In which city of {x} do most people live?',
    'What is the name of the largest city in {x}?',
    'Name the largest city in {x}.',
    '{x} has which city as its largest?',
  ),
  ('states', 'nickname'): (
    'What is the nickname of {x}?',
    'Which nickname does {x} have?',
    'By what nickname does {x} go?',
    'What nickname is used for {x}?',
    'Name the nickname of {x}.',
    '{x} goes by which nickname?',
  ),
  ('presidents', 'ordinal'): (
    'In the list of presidents, which place has {x}?',
    'Which president of the United States was {x} by number?',
    'What number has {x} among the presidents?',
    'Where in the list of presidents does {x} come?',
    'Name the number of {x} in the list of presidents.',
    '{x} has which place among the presidents?',
  ),
  ('presidents', 'party'): (
    'What was the party of {x}?',
    'Which political party did {x} belong to?',
    'To which party did {x} belong?',
    'What was the political party of {x}?',
    'Name the party of {x}.',
    '{x} did belong to which party?',
  ),
  ('presidents', 'birth_state'): (
    'In which state was {x} born?',
    'Where was {x} born?',
    'What is the birthplace of {x}?',
    'Which state is the birthplace of {x}?',
    'Name the state in which {x} was born.',
    '{x} was born in which state?',
  ),
  ('presidents', 'took_office'): (
    'When did {x} take office?',
    'In which year did the term of {x} as president begin?',
    'What year did {x} take office?',
    'When did the term of {x} begin?',
    'Name the year when {x} did take office.',
    'The term of {x} did begin in which year?',
  ),
  ('presidents', 'born'): (
    'What is the year of birth of {x}?',
    'In which year did {x} come into the world?',
    'What was the year of birth of {x}?',
    'When did {x} come into the world?',
    'Name the year of birth of {x}.',
    '{x} did come into the world in which year?',
  ),
  ('books', 'author'): (
    'Who is the author of {x}?',
    'Who wrote {x}?',
    'By whom was {x} written?',
    'Which author wrote {x}?',
    'Name the author of {x}.',
    '{x} was written by whom?',
  ),
  ('books', 'year'): (
    'When was {x} published?',
    'In which year was {x} first published?',
    'What is the year of publication of {x}?',
    'What year was {x} published in?',
    'Name the year of publication of {x}.',
    '{x} was first published in which year?',
  ),
  ('books', 'language'): (
    'In which language was {x} written?',
    'What is the original language of {x}?',
    'Which language was {x} written in?',
    'What language did the author of {x} use?',
    'Name the original language of {x}.',
    '{x} was written in which language?',
  ),
  ('books', 'form'): (
    'What is the literary form of {x}?',
    'Which form does {x} have?',
    'By its form, what is {x}?',
    'What literary form has {x}?',
    'Name the literary form of {x}.',
    '{x} has which literary form?',
  ),
  ('planets', 'ordinal'): (
    'Which planet from the Sun is {x}?',
    'Counted from the Sun, which place has {x}?',
    'Where does {x} come, counted from the Sun?',
    'What number has {x} among the planets from the Sun?',
    'Name the place of {x}, counted from the Sun.',
    '{x} has which place from the Sun?',
  ),
  ('planets', 'type'): (
    'What type of planet is {x}?',
    'Which type does {x} belong to?',
    'By its type, what is {x}?',
    'What is the type of {x}?',
    'Name the type of planet of {x}.',
    '{x} is which type of planet?',
  ),
  ('planets', 'namesake'): (
    'After whom is {x} named?',
    'Who is {x} named after?',
    'From whom does the name of {x} come?',
    'Where does the name of {x} come from?',
    'After what god is {x} named?',
    '{x} is named after whom?',
  ),
  ('planets', 'moon'): (
    'What is the largest moon of {x}?',
    'Which moon of {x} is the largest?',
    'What is the name of the largest moon of {x}?',
    'Which moon goes around {x}?',
    'Name the largest moon of {x}.',
    '{x} has which largest moon?',
  ),
}

# (kind, relation) -> questions for the entity, where the value names but one.
REVERSED = {
  ('countries', 'capital'): (
    'Which country has the capital {v}?',
    '{v} is the capital of which country?',
    'Of which country is {v} the capital?',
    'What country has {v} as its capital?',
    'Name the country whose capital is {v}.',
    'The city of {v} is the capital of what country?',
  ),
  ('elements', 'symbol'): (
    'Which element has the symbol {v}?',
    'What element has the chemical symbol {v}?',
    'The symbol {v} is used for which element?',
    'Which element do chemists write as {v}?',
    'Name the element whose symbol is {v}.',
    '{v} is the symbol of which element?',
  ),
  ('states', 'nickname'): (
    'Which state has the nickname {v}?',
    'What state goes by the nickname {v}?',
    'The nickname {v} is used for which state?',
    'Which state is called the {v}?',
    'Name the state whose nickname is {v}.',
    '{v} is the nickname of which state?',
  ),
  ('books', 'author'): (
    'Which book was written by {v}?',
    'What book did {v} write?',
    'Of which book is {v} the author?',
    'Which book has {v} as its author?',
    'Name the book whose author is {v}.',
    '{v} is the author of which book?',
  ),
}

# kind -> summaries; a value that is missing leaves its sentence out.
SUMMARIES = {
  'countries': (
    '{x} is a country in {continent}.',
    'Its capital is {capital} and its currency code is {currency}.',
  ),
  'elements': (
    '{x} is a {category} with the symbol {symbol}.',
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
  'books': ('{x} is a {form} by {author}.', 'It was published in {year}.'),
  'planets': (
    '{x} is the {ordinal} planet from the Sun.',
    'It is a {type} planet.',
  ),
}
